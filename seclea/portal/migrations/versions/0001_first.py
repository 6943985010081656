"""The first schema: accounts, objects, streams. `seclea/portal/tables.py` says what each table is for."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

big_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "organizations",
        sa.Column("id", big_id, autoincrement=True, nullable=False),
        sa.Column("uuid", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=250), nullable=False),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_organizations")),
        sa.UniqueConstraint("name", name=op.f("uq_organizations_name")),
        sa.UniqueConstraint("uuid", name=op.f("uq_organizations_uuid")),
    )
    op.create_table(
        "users",
        sa.Column("id", big_id, autoincrement=True, nullable=False),
        sa.Column("uuid", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=150), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=True),
        sa.Column("disabled_ns", sa.BigInteger(), nullable=True),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("name", name=op.f("uq_users_name")),
        sa.UniqueConstraint("uuid", name=op.f("uq_users_uuid")),
    )
    op.create_table(
        "aliases",
        sa.Column("organization_id", big_id, nullable=False),
        sa.Column("uuid", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=30), nullable=False),
        sa.Column("target", sa.String(length=36), nullable=False),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.id"], name=op.f("fk_aliases_organization_id")),
        sa.PrimaryKeyConstraint("organization_id", "uuid", name=op.f("pk_aliases")),
    )
    op.create_table(
        "chunks",
        sa.Column("organization_id", big_id, nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.id"], name=op.f("fk_chunks_organization_id")),
        sa.PrimaryKeyConstraint("organization_id", "sha256", name=op.f("pk_chunks")),
    )
    op.create_table(
        "contents",
        sa.Column("id", big_id, autoincrement=True, nullable=False),
        sa.Column("organization_id", big_id, nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.id"], name=op.f("fk_contents_organization_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_contents")),
    )
    op.create_table(
        "memberships",
        sa.Column("user_id", big_id, nullable=False),
        sa.Column("organization_id", big_id, nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.id"], name=op.f("fk_memberships_organization_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_memberships_user_id")),
        sa.PrimaryKeyConstraint("user_id", "organization_id", name=op.f("pk_memberships")),
    )
    op.create_table(
        "projects",
        sa.Column("id", big_id, autoincrement=True, nullable=False),
        sa.Column("organization_id", big_id, nullable=False),
        sa.Column("uuid", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=250), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.id"], name=op.f("fk_projects_organization_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_projects")),
        sa.UniqueConstraint("organization_id", "name", name=op.f("uq_projects_organization_id_name")),
        sa.UniqueConstraint("organization_id", "uuid", name=op.f("uq_projects_organization_id_uuid")),
    )
    op.create_table(
        "records",
        sa.Column("organization_id", big_id, nullable=False),
        sa.Column("stream", sa.String(length=36), nullable=False),
        sa.Column("lane", sa.String(length=10), nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=30), nullable=False),
        sa.Column("chained_kind", sa.String(length=30), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("chain", sa.LargeBinary(length=32), nullable=False),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.id"], name=op.f("fk_records_organization_id")),
        sa.PrimaryKeyConstraint("organization_id", "stream", "lane", "first", name=op.f("pk_records")),
    )
    op.create_table(
        "requests",
        sa.Column("organization_id", big_id, nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("reply", sa.LargeBinary(), nullable=False),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.id"], name=op.f("fk_requests_organization_id")),
        sa.PrimaryKeyConstraint("organization_id", "key", name=op.f("pk_requests")),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("user_id", big_id, nullable=False),
        sa.Column("expires_ns", sa.BigInteger(), nullable=False),
        sa.Column("revoked_ns", sa.BigInteger(), nullable=True),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_sessions_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
    )
    op.create_table(
        "tombstones",
        sa.Column("organization_id", big_id, nullable=False),
        sa.Column("stream", sa.String(length=36), nullable=False),
        sa.Column("lane", sa.String(length=10), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=30), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(length=20), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("stands_for", sa.Text(), nullable=True),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.id"], name=op.f("fk_tombstones_organization_id")),
        sa.PrimaryKeyConstraint("organization_id", "stream", "lane", "sequence", name=op.f("pk_tombstones")),
    )
    op.create_table(
        "content_chunks",
        sa.Column("content_id", big_id, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("organization_id", big_id, nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["content_id"], ["contents.id"], name=op.f("fk_content_chunks_content_id")),
        sa.ForeignKeyConstraint(
            ["organization_id", "sha256"],
            ["chunks.organization_id", "chunks.sha256"],
            name=op.f("fk_content_chunks_organization_id_sha256"),
        ),
        sa.PrimaryKeyConstraint("content_id", "position", name=op.f("pk_content_chunks")),
    )
    op.create_index(
        op.f("ix_content_chunks_organization_id_sha256"), "content_chunks", ["organization_id", "sha256"], unique=False
    )
    op.create_table(
        "datasets",
        sa.Column("id", big_id, autoincrement=True, nullable=False),
        sa.Column("organization_id", big_id, nullable=False),
        sa.Column("uuid", sa.String(length=36), nullable=False),
        sa.Column("project_id", big_id, nullable=False),
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("hash", sa.String(length=200), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("parent_id", big_id, nullable=True),
        sa.Column("intermediate", sa.Boolean(), nullable=False),
        sa.Column("format", sa.String(length=100), nullable=False),
        sa.Column("content_id", big_id, nullable=True),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["content_id"], ["contents.id"], name=op.f("fk_datasets_content_id")),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.id"], name=op.f("fk_datasets_organization_id")),
        sa.ForeignKeyConstraint(["parent_id"], ["datasets.id"], name=op.f("fk_datasets_parent_id")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_datasets_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datasets")),
        sa.UniqueConstraint("organization_id", "uuid", name=op.f("uq_datasets_organization_id_uuid")),
        sa.UniqueConstraint("project_id", "hash", name=op.f("uq_datasets_project_id_hash")),
        sa.UniqueConstraint("project_id", "name", name=op.f("uq_datasets_project_id_name")),
    )
    op.create_index(op.f("ix_datasets_parent_id"), "datasets", ["parent_id"], unique=False)
    op.create_table(
        "models",
        sa.Column("id", big_id, autoincrement=True, nullable=False),
        sa.Column("organization_id", big_id, nullable=False),
        sa.Column("uuid", sa.String(length=36), nullable=False),
        sa.Column("project_id", big_id, nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("framework", sa.String(length=100), nullable=False),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.id"], name=op.f("fk_models_organization_id")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_models_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
        sa.UniqueConstraint("organization_id", "uuid", name=op.f("uq_models_organization_id_uuid")),
        sa.UniqueConstraint("project_id", "name", "framework", name=op.f("uq_models_project_id_name_framework")),
    )
    op.create_table(
        "refresh_tokens",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("session_id", sa.String(length=36), nullable=False),
        sa.Column("used_ns", sa.BigInteger(), nullable=True),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name=op.f("fk_refresh_tokens_session_id")),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_refresh_tokens")),
    )
    op.create_table(
        "dataset_transformations",
        sa.Column("id", big_id, autoincrement=True, nullable=False),
        sa.Column("organization_id", big_id, nullable=False),
        sa.Column("uuid", sa.String(length=36), nullable=False),
        sa.Column("dataset_id", big_id, nullable=False),
        sa.Column("name", sa.String(length=250), nullable=False),
        sa.Column("code_raw", sa.Text(), nullable=False),
        sa.Column("code_encoded", sa.Text(), nullable=False),
        sa.Column("order", sa.BigInteger(), nullable=False),
        sa.Column("details", sa.Text(), nullable=False),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name=op.f("fk_dataset_transformations_dataset_id")),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"], name=op.f("fk_dataset_transformations_organization_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset_transformations")),
        sa.UniqueConstraint("organization_id", "uuid", name=op.f("uq_dataset_transformations_organization_id_uuid")),
    )
    op.create_index(
        op.f("ix_dataset_transformations_dataset_id"), "dataset_transformations", ["dataset_id"], unique=False
    )
    op.create_table(
        "training_runs",
        sa.Column("id", big_id, autoincrement=True, nullable=False),
        sa.Column("organization_id", big_id, nullable=False),
        sa.Column("uuid", sa.String(length=36), nullable=False),
        sa.Column("project_id", big_id, nullable=False),
        sa.Column("model_id", big_id, nullable=True),
        sa.Column("name", sa.String(length=250), nullable=False),
        sa.Column("params", sa.Text(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("started_ns", sa.BigInteger(), nullable=False),
        sa.Column("finished_ns", sa.BigInteger(), nullable=True),
        sa.Column("ends", sa.Text(), nullable=False),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_training_runs_model_id")),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"], name=op.f("fk_training_runs_organization_id")
        ),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_training_runs_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_training_runs")),
        sa.UniqueConstraint("organization_id", "uuid", name=op.f("uq_training_runs_organization_id_uuid")),
    )
    op.create_index(op.f("ix_training_runs_project_id_name"), "training_runs", ["project_id", "name"], unique=False)
    op.create_table(
        "metric_batches",
        sa.Column("id", big_id, autoincrement=True, nullable=False),
        sa.Column("organization_id", big_id, nullable=False),
        sa.Column("training_run_id", big_id, nullable=False),
        sa.Column("stream", sa.String(length=36), nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("keys", sa.Text(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"], name=op.f("fk_metric_batches_organization_id")
        ),
        sa.ForeignKeyConstraint(
            ["training_run_id"], ["training_runs.id"], name=op.f("fk_metric_batches_training_run_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_metric_batches")),
        sa.UniqueConstraint(
            "organization_id", "stream", "first", name=op.f("uq_metric_batches_organization_id_stream_first")
        ),
    )
    op.create_index(
        op.f("ix_metric_batches_training_run_id_stream_first"),
        "metric_batches",
        ["training_run_id", "stream", "first"],
        unique=False,
    )
    op.create_table(
        "metric_keys",
        sa.Column("training_run_id", big_id, nullable=False),
        sa.Column("key", sa.String(length=1000), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("first_step", sa.BigInteger(), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["training_run_id"], ["training_runs.id"], name=op.f("fk_metric_keys_training_run_id")),
        sa.PrimaryKeyConstraint("training_run_id", "key", name=op.f("pk_metric_keys")),
    )
    op.create_table(
        "model_states",
        sa.Column("id", big_id, autoincrement=True, nullable=False),
        sa.Column("organization_id", big_id, nullable=False),
        sa.Column("uuid", sa.String(length=36), nullable=False),
        sa.Column("project_id", big_id, nullable=False),
        sa.Column("training_run_id", big_id, nullable=False),
        sa.Column("sequence_num", sa.BigInteger(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=True),
        sa.Column("final_state", sa.Boolean(), nullable=False),
        sa.Column("format", sa.String(length=100), nullable=False),
        sa.Column("framework", sa.String(length=100), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("made_ns", sa.BigInteger(), nullable=False),
        sa.Column("content_id", big_id, nullable=True),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["content_id"], ["contents.id"], name=op.f("fk_model_states_content_id")),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"], name=op.f("fk_model_states_organization_id")
        ),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_model_states_project_id")),
        sa.ForeignKeyConstraint(
            ["training_run_id"], ["training_runs.id"], name=op.f("fk_model_states_training_run_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_states")),
        sa.UniqueConstraint("organization_id", "uuid", name=op.f("uq_model_states_organization_id_uuid")),
        sa.UniqueConstraint(
            "training_run_id", "sequence_num", name=op.f("uq_model_states_training_run_id_sequence_num")
        ),
    )
    op.create_table(
        "streams",
        sa.Column("organization_id", big_id, nullable=False),
        sa.Column("stream", sa.String(length=36), nullable=False),
        sa.Column("lane", sa.String(length=10), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("chain", sa.LargeBinary(length=32), nullable=False),
        sa.Column("training_run_id", big_id, nullable=True),
        sa.Column("updated_ns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.id"], name=op.f("fk_streams_organization_id")),
        sa.ForeignKeyConstraint(["training_run_id"], ["training_runs.id"], name=op.f("fk_streams_training_run_id")),
        sa.PrimaryKeyConstraint("organization_id", "stream", "lane", name=op.f("pk_streams")),
    )
    op.create_index(op.f("ix_streams_training_run_id"), "streams", ["training_run_id"], unique=False)
    op.create_table(
        "training_run_datasets",
        sa.Column("training_run_id", big_id, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("dataset_id", big_id, nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name=op.f("fk_training_run_datasets_dataset_id")),
        sa.ForeignKeyConstraint(
            ["training_run_id"], ["training_runs.id"], name=op.f("fk_training_run_datasets_training_run_id")
        ),
        sa.PrimaryKeyConstraint("training_run_id", "position", name=op.f("pk_training_run_datasets")),
    )
    op.create_index(op.f("ix_training_run_datasets_dataset_id"), "training_run_datasets", ["dataset_id"], unique=False)
