"""The rows of one part of a snapshot, some at a time: decoded as they are asked for."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from data.publication import FormatError
from data.snapshot import Part, as_it_was
from data.working_copy import present

BUFFER_BYTES = 1 << 20  # of a column that is read at a time: compressed pages, not all of them


def part_rows(part: Part, rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows of `part` in order, `rows` at a time; one empty batch where it has none.

    Raises:
        FormatError: the file is damaged.
    """
    try:
        with pq.ParquetFile(
            present(part.path, part.sha256),
            page_checksum_verification=True,
            buffer_size=BUFFER_BYTES,
        ) as file:
            schema = file.schema_arrow
            if not part.rows:
                nothing = as_it_was(schema.empty_table())
                yield pa.RecordBatch.from_pylist([], schema=nothing.schema)
            for batch in file.iter_batches(batch_size=rows):
                yield from as_it_was(pa.Table.from_batches([batch], schema)).to_batches()
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"{part.path} is damaged ({error}); ingest again") from None
