"""Tables of the queue. A change here needs a migration in server/batches/migrations/versions/.

All content is in the database, images included, so that a line and its result are one transaction on every server.
"""

from sqlalchemy import BigInteger, Column, Float, Index, Integer, LargeBinary, MetaData, Table, Text

metadata = MetaData()

files = Table(
    "files",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("purpose", Text, nullable=False),  # batch: an upload in `chunks`; batch_output: a view of a batch's lines
    Column("filename", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("status", Text, nullable=False),  # uploading, processed, deleted
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("batch_id", Text),
    Column("line_state", Text),  # of the lines that a batch_output file shows: completed or failed
    Index("files_of_tenant", "tenant", "created_at", "id"),
)

chunks = Table(
    "chunks",
    metadata,
    Column("file_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

batches = Table(
    "batches",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("input_file_id", Text, nullable=False),
    Column("completion_window", Text, nullable=False),
    Column("metadata", Text),
    Column("base_url", Text, nullable=False),  # start of image URLs, from the request that created the batch
    Column("output_seconds", BigInteger),  # time the output files are kept; NULL: as long as the batch
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
    Column("output_bytes", BigInteger, nullable=False, server_default="0"),  # size of the output file so far
    Column("error_bytes", BigInteger, nullable=False, server_default="0"),
    Column("stored_bytes", BigInteger, nullable=False, server_default="0"),  # of its lines and images
    Column("owner", Text),  # the server that validates it
    Column("claimed_at", Float, nullable=False, server_default="0"),  # when lines of it were last claimed
    Column("notify_at", Float),  # time of the next attempt to send its webhook
    Column("notify_attempts", Integer, nullable=False, server_default="0"),
    Index("batches_of_tenant", "tenant", "created_at", "id"),
    Index("batches_by_status", "status"),
)

lines = Table(
    "lines",
    metadata,
    Column("batch_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True),  # in the input file, from 1
    Column("custom_id", Text, nullable=False),
    Column("state", Text, nullable=False),  # pending, running, completed, failed
    Column("owner", Text),  # the server that generates it
    Column("body", LargeBinary),  # the line of the input file, until it is done
    Column("output", LargeBinary),  # the line of the output or error file, with a mark for each image in base64
    Index("lines_by_state", "batch_id", "state", "number"),
    Index("lines_by_custom_id", "batch_id", "custom_id"),
)

images = Table(
    "images",
    metadata,
    Column("batch_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("image_index", Integer, primary_key=True),
    Column("name", Text),  # of an image that is fetched by URL; NULL: it is in the output file
    Column("data", LargeBinary, nullable=False),
    Index("images_by_name", "name", unique=True),
)

servers = Table(
    "servers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("seen_at", Float, nullable=False),  # its leases, the rows it owns, are valid for LEASE_SECONDS after that
)


def storable(text: str) -> bool:
    """Whether both databases can store the text: no NUL, no half of a surrogate pair."""
    return not any(char == "\0" or "\ud800" <= char <= "\udfff" for char in text)


def stored_id(text: str) -> str:
    """The text as an id to look up. One that no database can hold becomes "", which no row has."""
    return text if storable(text) else ""
