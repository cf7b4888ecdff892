"""The rows of one part of a snapshot, some at a time: decoded as they are asked for."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from data.publication import FormatError
from data.snapshot import Part

BUFFER_BYTES = 1 << 20  # of a column that is read at a time: compressed pages, not all of them


def part_rows(part: Part, rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows of `part` in order, `rows` at a time; one empty batch where it has none.

    Raises:
        FormatError: the file is damaged.
    """
    try:
        with pq.ParquetFile(
            part.path, page_checksum_verification=True, buffer_size=BUFFER_BYTES
        ) as file:
            if not part.rows:
                schema = file.schema_arrow.remove_metadata()
                yield pa.RecordBatch.from_pylist([], schema=schema)
            for batch in file.iter_batches(batch_size=rows):
                yield batch.replace_schema_metadata(None)
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"{part.path} is damaged ({error}); ingest again") from None
