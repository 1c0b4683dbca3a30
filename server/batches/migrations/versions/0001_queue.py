"""The queue: files, batches, their lines and images, and the servers that work on them."""

from alembic import op
from sqlalchemy import BigInteger, Column, Float, Integer, LargeBinary, Text

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "files",
        Column("id", Text, primary_key=True),
        Column("tenant", Text, nullable=False),
        Column("purpose", Text, nullable=False),
        Column("filename", Text, nullable=False),
        Column("bytes", BigInteger, nullable=False),
        Column("status", Text, nullable=False),
        Column("created_at", BigInteger, nullable=False),
        Column("expires_at", BigInteger, nullable=False),
        Column("batch_id", Text),
        Column("line_state", Text),
    )
    op.create_index("files_of_tenant", "files", ["tenant", "created_at", "id"])
    op.create_table(
        "chunks",
        Column("file_id", Text, primary_key=True),
        Column("number", Integer, primary_key=True),
        Column("data", LargeBinary, nullable=False),
    )
    op.create_table(
        "batches",
        Column("id", Text, primary_key=True),
        Column("tenant", Text, nullable=False),
        Column("endpoint", Text, nullable=False),
        Column("input_file_id", Text, nullable=False),
        Column("completion_window", Text, nullable=False),
        Column("metadata", Text),
        Column("base_url", Text, nullable=False),
        Column("output_seconds", BigInteger),
        Column("status", Text, nullable=False),
        Column("errors", Text),
        Column("output_file_id", Text),
        Column("error_file_id", Text),
        Column("created_at", BigInteger, nullable=False),
        Column("expires_at", BigInteger, nullable=False),
        Column("in_progress_at", BigInteger),
        Column("finalizing_at", BigInteger),
        Column("completed_at", BigInteger),
        Column("failed_at", BigInteger),
        Column("expired_at", BigInteger),
        Column("cancelling_at", BigInteger),
        Column("cancelled_at", BigInteger),
        Column("total", BigInteger, nullable=False, server_default="0"),
        Column("completed", BigInteger, nullable=False, server_default="0"),
        Column("failed", BigInteger, nullable=False, server_default="0"),
        Column("output_bytes", BigInteger, nullable=False, server_default="0"),
        Column("error_bytes", BigInteger, nullable=False, server_default="0"),
        Column("stored_bytes", BigInteger, nullable=False, server_default="0"),
        Column("owner", Text),
        Column("claimed_at", Float, nullable=False, server_default="0"),
        Column("notify_at", Float),
        Column("notify_attempts", Integer, nullable=False, server_default="0"),
    )
    op.create_index("batches_of_tenant", "batches", ["tenant", "created_at", "id"])
    op.create_index("batches_by_status", "batches", ["status"])
    op.create_table(
        "lines",
        Column("batch_id", Text, primary_key=True),
        Column("number", Integer, primary_key=True),
        Column("custom_id", Text, nullable=False),
        Column("state", Text, nullable=False),
        Column("owner", Text),
        Column("body", LargeBinary),
        Column("output", LargeBinary),
    )
    op.create_index("lines_by_state", "lines", ["batch_id", "state", "number"])
    op.create_index("lines_by_custom_id", "lines", ["batch_id", "custom_id"])
    op.create_table(
        "images",
        Column("batch_id", Text, primary_key=True),
        Column("number", Integer, primary_key=True),
        Column("image_index", Integer, primary_key=True),
        Column("name", Text),
        Column("data", LargeBinary, nullable=False),
    )
    op.create_index("images_by_name", "images", ["name"], unique=True)
    op.create_table(
        "servers",
        Column("id", Text, primary_key=True),
        Column("seen_at", Float, nullable=False),
    )
