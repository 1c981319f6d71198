"""Every bound the engine enforces, with its unit in the name and its reason beside it."""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# The fold log. The first three are fixed by the format (see fold_log).
KEY_BYTES_MAX = 65_535
VALUE_BYTES_MAX = 16 * MIB
TOKEN_BYTES_MAX = 10
BATCH_BYTES_MAX = GIB  # one apply, encoded; keeps a batch inside one frame
RESYNC_BYTES_MAX = 4 * GIB  # checksummed while looking behind a damaged record: about a second
COMPACT_GARBAGE_BYTES_MIN = 10 * MIB  # below this much garbage a fold is left alone

# The warm store.
DIMENSION_MAX = 65_535
FLUSH_ROWS = 131_072  # points outside chunks, in memory and log, before they become a chunk
FLUSH_BYTES = 32 * MIB
CHUNK_ROWS_MAX = MIB
CHUNK_BYTES_MAX = 32 * MIB  # of a chunk's vectors, times and keys; also what merging holds at once
COMPRESSED_CHUNK_BYTES_MAX = 8 * MIB  # such a chunk is decompressed as a whole
DECOMPRESSED_BYTES_MAX = 2 * GIB  # what a compressed chunk may announce, metadata included
DEAD_BYTES_MIN = 2 * MIB  # below this much garbage chunks are left alone
MAPPED_BYTES_MIN = 64 * KIB  # a part of an answer that is not sent but mapped by the reader

# The registry. A save writes the whole file, so a registry is for models and not for data.
REGISTRY_BYTES_MAX = GIB  # all entries; so that one answer can list them
ARTIFACTS_MAX = 1_000_000
ARTIFACT_BYTES_MAX = 64 * MIB
FIELDS_MAX = 65_536  # of a schema
HASH_BYTES = 32  # of a schema; fixed by the format
TOP_K_MAX = 10  # most frequent values kept of a field

# Names of stores: short enough for every file system once a suffix is added.
NAME_CHARS_MAX = 100

# Frames between processes.
FRAME_BODY_BYTES_MAX = 2 * GIB
RESULT_BYTES_MAX = GIB  # one answer; larger results are read with scan()
SCAN_PAGE_BYTES = 512 * KIB
SCAN_PAGE_ENTRIES = 4096

# Sessions and requests.
SESSIONS_PER_STORE_MAX = 256
IN_FLIGHT_PER_SESSION_MAX = 128
LEDGER_SLOTS = 4096
DRAIN_REQUESTS_MAX = 1024

# Supervision, in seconds unless named otherwise.
FRUITLESS_DEATHS_MAX = 5
TRIES_PER_REQUEST_MAX = 2
SUPERVISORS_PER_QUESTION_MAX = 5  # more: nobody knows whether it is the question that ends them
BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 2.0

assert BATCH_BYTES_MAX + MIB <= FRAME_BODY_BYTES_MAX
assert RESULT_BYTES_MAX + MIB <= FRAME_BODY_BYTES_MAX
assert REGISTRY_BYTES_MAX <= RESULT_BYTES_MAX
assert VALUE_BYTES_MAX + KEY_BYTES_MAX + KIB <= BATCH_BYTES_MAX
# A resend is recognised by its ledger slot, so the ledger outlives whatever may be unanswered.
assert DRAIN_REQUESTS_MAX * 2 <= LEDGER_SLOTS

# The index store. The first three are fixed by the format, and upstream refuses what is over them.
INDEX_RECORD_BYTES_MAX = 256 * MIB  # one record of the log
INDEX_TYPE_BYTES_MAX = 4096
INDEX_RATIO_MAX = 4096  # of a snapshot's payload to its stored bytes: no bomb inflates further
INDEX_DIMENSION_MAX = 1 << 20  # so that a file of no rows cannot ask for much memory
INDEX_LOG_BYTES_MIN = 16 * MIB  # below this much log an index is not checkpointed by itself
INDEX_GRAPH_ROWS_MIN = 4096  # below this many rows looking at each takes less than a graph

assert INDEX_DIMENSION_MAX * 4 + KIB <= INDEX_RECORD_BYTES_MAX
