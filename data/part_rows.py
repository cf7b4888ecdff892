"""The rows of one part of a snapshot, some at a time: decoded as they are asked for."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data.publication import FormatError
from data.snapshot import Part, as_it_was
from data.working_copy import present

BUFFER_BYTES = 1 << 20  # of a column that is read at a time: compressed pages, not all of them
FEW_COLUMNS = 8  # so many are decoded by the caller's thread: others would mostly wait for one


def part_rows(part: Part, rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows of `part` in order, `rows` at a time; one empty batch where it has none.

    Raises:
        FormatError: the file is damaged.
    """
    try:
        with pq.ParquetFile(
            present(part.path, part.sha256),
            page_checksum_verification=True,
            pre_buffer=False,  # which reads whole row groups ahead, whatever the buffer
            buffer_size=BUFFER_BYTES,
        ) as file:
            schema = file.schema_arrow
            if not part.rows:
                nothing = as_it_was(schema.empty_table())
                yield pa.RecordBatch.from_pylist([], schema=nothing.schema)
            threads = len(schema) > FEW_COLUMNS
            for batch in file.iter_batches(batch_size=rows, use_threads=threads):
                yield from as_it_was(pa.Table.from_batches([batch], schema)).to_batches()
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"{part.path} is damaged ({error}); ingest again") from None


def check_keys(part: Part, features: Path, key: str) -> None:
    """Hold a file of features against the part that it was made of: a row each, in its order.

    Raises:
        FormatError: rows are missing, added or in another order.
    """
    with pq.ParquetFile(part.path, page_checksum_verification=True) as file:
        asked = file.read(columns=[key])[key]
    with pq.ParquetFile(features, page_checksum_verification=True) as file:
        found = file.read(columns=[key])[key]
    if not found.equals(asked):
        raise FormatError(
            f"{features} has {len(found)} rows whose {key!r} are not those of the {len(asked)} "
            f"rows of {part.path}, in their order; nothing is published: encode again"
        )
