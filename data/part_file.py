"""How a part is written: the settings of Parquet that readers of every kind cope with."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP_ROWS = 131_072


def write_parquet(file: Any, table: pa.Table, metadata: Mapping[bytes, bytes]) -> None:
    """Write zstd Parquet with page checksums; dictionaries for all but floats and blobs.

    On floats a dictionary costs half the size again and five times the time.
    """
    pq.write_table(
        table.replace_schema_metadata(dict(metadata)),
        file,
        compression="zstd",
        row_group_size=ROW_GROUP_ROWS,
        write_page_checksum=True,
        use_dictionary=[field.name for field in table.schema if _repeats(field.type)],
    )


def _repeats(kind: pa.DataType) -> bool:
    return not (
        pa.types.is_floating(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_nested(kind)
    )
