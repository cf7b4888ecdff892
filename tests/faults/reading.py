"""A process that reads the sources whose names come in, as the product does, and says what came.

{"digest": ...}      the rows were read; equal rows have equal digests
{"refused": ...}     by an error that the command line explains
{"raised": ...}      by any other
"""

import json
import resource
import sys
import time

import pyarrow as pa

from data.content import content_digest
from data.contract import SpecError
from data.formats import SourceError
from data.sources import open_source

MEMORY_BYTES = 6 << 30  # of address space


def read(source: str) -> dict[str, str]:
    try:
        opened = open_source(source)
        table = pa.Table.from_batches(opened.batches(), opened.schema)
        return {"digest": content_digest(table)}
    except (SourceError, SpecError) as error:
        return {"refused": str(error)}
    except Exception as error:  # noqa: BLE001  # whatever it is, it is a finding
        return {"raised": f"{type(error).__name__}: {error}"}


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for line in sys.stdin:
        started = time.perf_counter()
        answer = read(json.loads(line))
        took_s = time.perf_counter() - started
        sys.stdout.write(json.dumps({**answer, "took_s": took_s}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
