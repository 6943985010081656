"""Lineage: the inputs of a transformation, and what a run used each of its datasets for."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

big_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "transformation_inputs",
        sa.Column("transformation_id", big_id, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("dataset_id", big_id, nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name=op.f("fk_transformation_inputs_dataset_id")),
        sa.ForeignKeyConstraint(
            ["transformation_id"],
            ["dataset_transformations.id"],
            name=op.f("fk_transformation_inputs_transformation_id"),
        ),
        sa.PrimaryKeyConstraint("transformation_id", "position", name=op.f("pk_transformation_inputs")),
    )
    op.create_index(op.f("ix_transformation_inputs_dataset_id"), "transformation_inputs", ["dataset_id"], unique=False)
    op.add_column("training_run_datasets", sa.Column("role", sa.Text(), nullable=False, server_default=""))
