"""Bodies as they came, so that what is shown can be checked against what the chain covers."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("records", sa.Column("object", sa.String(36)))
    op.add_column("records", sa.Column("body", sa.LargeBinary()))
    op.add_column("records", sa.Column("body_bytes", sa.BigInteger()))
    there = sa.text("object IS NOT NULL")
    op.create_index(
        op.f("ix_records_object"), "records", ["organization_id", "object"], sqlite_where=there, postgresql_where=there
    )
