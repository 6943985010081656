"""The portal's tables (SQLAlchemy Core). The migrations make them; a test holds the two together.

Rule 1  Nothing here knows the engine: sqlite today, PostgreSQL at scale.
Rule 2  The uuid of an object is the client's to choose, so it is unique per organisation and never alone.
Rule 3  What the chain covers is kept for ever: `requests` and `records` are only ever added to.

Times are nanoseconds since 1970 UTC (``_ns``). JSON is kept as text, as it was sent. Digests of bodies and chains are 32
raw bytes, names of blobs 64 hex digits.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
BigId = BigInteger().with_variant(Integer, "sqlite")  # only an INTEGER key numbers itself there


def _id() -> Column[int]:
    return Column("id", BigId, primary_key=True, autoincrement=True)


def _organization() -> Column[int]:
    return Column("organization_id", BigId, ForeignKey("organizations.id"), nullable=False)


def _created() -> Column[int]:
    return Column("created_ns", BigInteger, nullable=False)


def _reference(name: str, target: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, BigId, ForeignKey(f"{target}.id"), nullable=nullable)


# ------------------------------------------------------------------------------------------------- who may do what

organizations = Table(
    "organizations",
    metadata,
    _id(),
    Column("uuid", String(36), nullable=False, unique=True),
    Column("name", String(250), nullable=False, unique=True),
    _created(),
)

users = Table(
    "users",
    metadata,
    _id(),
    Column("uuid", String(36), nullable=False, unique=True),
    Column("name", String(150), nullable=False, unique=True),
    Column("password_hash", Text),  # null: cannot log in with a password
    Column("disabled_ns", BigInteger),
    _created(),
)

memberships = Table(
    "memberships",
    metadata,
    _reference("user_id", "users"),
    _organization(),
    Column("role", String(20), nullable=False),
    _created(),
    PrimaryKeyConstraint("user_id", "organization_id"),
)

sessions = Table(  # one login; its tokens die with it
    "sessions",
    metadata,
    Column("id", String(36), primary_key=True),
    _reference("user_id", "users"),
    Column("expires_ns", BigInteger, nullable=False),
    Column("revoked_ns", BigInteger),
    _created(),
)

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("digest", String(64), primary_key=True),  # sha256 of the token, which is kept nowhere
    Column("session_id", String(36), ForeignKey("sessions.id"), nullable=False),
    Column("used_ns", BigInteger),
    _created(),
    Index(None, "session_id"),
)

# ---------------------------------------------------------------------------------------------------------- objects

projects = Table(
    "projects",
    metadata,
    _id(),
    _organization(),
    Column("uuid", String(36), nullable=False),
    Column("name", String(250), nullable=False),
    Column("description", Text, nullable=False),
    _created(),
    UniqueConstraint("organization_id", "uuid"),
    UniqueConstraint("organization_id", "name"),
)

models = Table(
    "models",
    metadata,
    _id(),
    _organization(),
    Column("uuid", String(36), nullable=False),
    _reference("project_id", "projects"),
    Column("name", String(100), nullable=False),
    Column("framework", String(100), nullable=False),
    _created(),
    UniqueConstraint("organization_id", "uuid"),
    UniqueConstraint("project_id", "name", "framework"),
)

chunks = Table(  # which chunks an organisation has given us; the bytes are in the blob store
    "chunks",
    metadata,
    _organization(),
    Column("sha256", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    _created(),
    PrimaryKeyConstraint("organization_id", "sha256"),
)

contents = Table(  # a payload: the concatenation of its chunks
    "contents",
    metadata,
    _id(),
    _organization(),
    Column("sha256", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    _created(),
)

content_chunks = Table(
    "content_chunks",
    metadata,
    _reference("content_id", "contents"),
    Column("position", Integer, nullable=False),
    Column("organization_id", BigId, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    PrimaryKeyConstraint("content_id", "position"),
    ForeignKeyConstraint(["organization_id", "sha256"], ["chunks.organization_id", "chunks.sha256"]),
    Index(None, "organization_id", "sha256"),
)

datasets = Table(
    "datasets",
    metadata,
    _id(),
    _organization(),
    Column("uuid", String(36), nullable=False),
    _reference("project_id", "projects"),
    Column("name", String(256), nullable=False),
    Column("hash", String(200), nullable=False),
    Column("metadata", Text, nullable=False),
    _reference("parent_id", "datasets", nullable=True),
    Column("intermediate", Boolean, nullable=False),
    Column("format", String(100), nullable=False),
    _reference("content_id", "contents", nullable=True),
    _created(),
    UniqueConstraint("organization_id", "uuid"),
    UniqueConstraint("project_id", "hash"),
    UniqueConstraint("project_id", "name"),
    Index(None, "parent_id"),
)

dataset_transformations = Table(
    "dataset_transformations",
    metadata,
    _id(),
    _organization(),
    Column("uuid", String(36), nullable=False),
    _reference("dataset_id", "datasets"),
    Column("name", String(250), nullable=False),
    Column("code_raw", Text, nullable=False),
    Column("code_encoded", Text, nullable=False),  # text, never opened
    Column("order", BigInteger, nullable=False),
    Column("details", Text, nullable=False),  # JSON: whatever else the client said of the step
    _created(),
    UniqueConstraint("organization_id", "uuid"),
    Index(None, "dataset_id"),
)

transformation_inputs = Table(  # the primary parent first; a base client's transformation has none here
    "transformation_inputs",
    metadata,
    _reference("transformation_id", "dataset_transformations"),
    Column("position", Integer, nullable=False),
    _reference("dataset_id", "datasets"),
    PrimaryKeyConstraint("transformation_id", "position"),
    Index(None, "dataset_id"),
)

training_runs = Table(
    "training_runs",
    metadata,
    _id(),
    _organization(),
    Column("uuid", String(36), nullable=False),
    _reference("project_id", "projects"),
    _reference("model_id", "models", nullable=True),
    Column("name", String(250), nullable=False),
    Column("params", Text, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("status", String(20), nullable=False),
    Column("started_ns", BigInteger, nullable=False),
    Column("finished_ns", BigInteger),
    Column("ends", Text, nullable=False),  # JSON: the last sequence of each stream, as `finish` told it
    _created(),
    UniqueConstraint("organization_id", "uuid"),
    Index(None, "project_id", "name"),
)

training_run_datasets = Table(
    "training_run_datasets",
    metadata,
    _reference("training_run_id", "training_runs"),
    Column("position", Integer, nullable=False),
    _reference("dataset_id", "datasets"),
    Column("role", Text, nullable=False, server_default=""),  # train, test, validation; empty: nobody said
    PrimaryKeyConstraint("training_run_id", "position"),
    Index(None, "dataset_id"),
)

model_states = Table(
    "model_states",
    metadata,
    _id(),
    _organization(),
    Column("uuid", String(36), nullable=False),
    _reference("project_id", "projects"),
    _reference("training_run_id", "training_runs"),
    Column("sequence_num", BigInteger, nullable=False),
    Column("step", BigInteger),
    Column("final_state", Boolean, nullable=False),
    Column("format", String(100), nullable=False),
    Column("framework", String(100), nullable=False),
    Column("metadata", Text, nullable=False),
    Column("made_ns", BigInteger, nullable=False),  # at the client
    _reference("content_id", "contents", nullable=True),
    _created(),
    UniqueConstraint("organization_id", "uuid"),
    UniqueConstraint("training_run_id", "sequence_num"),
)

aliases = Table(  # ids of clients whose object was here already under another one (tombstone "adopted")
    "aliases",
    metadata,
    _organization(),
    Column("uuid", String(36), nullable=False),
    Column("kind", String(30), nullable=False),
    Column("target", String(36), nullable=False),
    _created(),
    PrimaryKeyConstraint("organization_id", "uuid"),
)

# ---------------------------------------------------------------------------------------------------------- streams

requests = Table(  # idempotency: the first reply of every create that had an effect
    "requests",
    metadata,
    _organization(),
    Column("key", String(200), nullable=False),
    Column("digest", LargeBinary(32), nullable=False),  # of method, path and body
    Column("status", Integer, nullable=False),
    Column("reply", LargeBinary, nullable=False),
    _created(),
    PrimaryKeyConstraint("organization_id", "key"),
)

streams = Table(  # the head of every stream and lane
    "streams",
    metadata,
    _organization(),
    Column("stream", String(36), nullable=False),
    Column("lane", String(10), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("chain", LargeBinary(32), nullable=False),
    _reference("training_run_id", "training_runs", nullable=True),
    Column("updated_ns", BigInteger, nullable=False),
    PrimaryKeyConstraint("organization_id", "stream", "lane"),
    Index(None, "training_run_id"),
)

records = Table(  # every record of a stream: with these rows the chain can be computed again from its start
    "records",
    metadata,
    _organization(),
    Column("stream", String(36), nullable=False),
    Column("lane", String(10), nullable=False),
    Column("first", BigInteger, nullable=False),
    Column("last", BigInteger, nullable=False),
    Column("kind", String(30), nullable=False),  # what came
    Column("chained_kind", String(30), nullable=False),  # what the chain covers: the record that a tombstone stands for
    Column("digest", LargeBinary(32), nullable=False),  # likewise
    Column("chain", LargeBinary(32), nullable=False),
    Column("object", String(36)),  # what it made, ended or stands for; null: metrics
    Column("body", LargeBinary),  # as it came; null: it lies in `metric_batches`, or came before schema 0004
    Column("body_bytes", BigInteger),  # since schema 0004: a body taken away is told from one that was never kept
    _created(),
    PrimaryKeyConstraint("organization_id", "stream", "lane", "first"),
    Index(
        "ix_records_object",
        "organization_id",
        "object",
        sqlite_where=text("object IS NOT NULL"),
        postgresql_where=text("object IS NOT NULL"),
    ),
)

metric_batches = Table(  # the body as it came; a row per batch, never one per point
    "metric_batches",
    metadata,
    _id(),
    _organization(),
    _reference("training_run_id", "training_runs"),
    Column("stream", String(36), nullable=False),
    Column("first", BigInteger, nullable=False),
    Column("last", BigInteger, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("count", Integer, nullable=False),
    Column("keys", Text, nullable=False),  # JSON list
    Column("summary", Text, nullable=False),  # JSON, as `keys`: [count, min, max, first step, last step, not finite]
    Column("digest", LargeBinary(32), nullable=False),
    Column("body", LargeBinary, nullable=False),
    _created(),
    UniqueConstraint("organization_id", "stream", "first"),
    Index(None, "training_run_id", "stream", "first"),
)

metric_keys = Table(
    "metric_keys",
    metadata,
    _reference("training_run_id", "training_runs"),
    Column("key", String(1000), nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("first_step", BigInteger, nullable=False),
    Column("last_step", BigInteger, nullable=False),
    PrimaryKeyConstraint("training_run_id", "key"),
)

tombstones = Table(
    "tombstones",
    metadata,
    _organization(),
    Column("stream", String(36), nullable=False),
    Column("lane", String(10), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("kind", String(30), nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("reason", String(20), nullable=False),
    Column("detail", Text, nullable=False),
    Column("stands_for", Text),  # JSON
    _created(),
    PrimaryKeyConstraint("organization_id", "stream", "lane", "sequence"),
)
