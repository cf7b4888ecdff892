"""Lines before a text table: remarks, a title, blanks. They are no rows, and have no names."""

from collections import Counter
from collections.abc import Sequence

from data.header import number_of

REMARKS = ("#", "%")
MOST = 100  # lines before a table
LEAST_CELLS = 3  # of a row: of fewer, a title may be a name with one for rows left out


def lines_before(lines: Sequence[str], delimiter: str | None) -> int:
    """How many of the first lines are none of the table's.

    A remark begins with its mark, and is not names with a mark: as many cells as the rows have.
    A title is one cell of text, alone or, above names, with empty cells beside it.

    Args:
        lines: some of the first lines of a file, where no cell is quoted.
        delimiter: what parts the cells of a row; None stands for blanks.
    """
    cells = [line.split(delimiter) if line.strip() else [] for line in lines]
    widths = Counter(len(row) for row in cells[len(cells) // 2 :] if row)
    if not widths:
        return 0
    before, ((width, _),) = 0, widths.most_common(1)
    for k, row in enumerate(cells[:MOST]):
        if any(cell.strip() for cell in row) and not _is_apart(row, width):
            is_padded = any(_is_padded(title, width) for title in cells[:before])
            return 0 if is_padded and not _are_names(row) else before
        before = k + 1 if before or any(row) else 0  # blanks alone are left to who reads
    return 0  # they are no lines before anything


def _is_apart(row: list[str], width: int) -> bool:
    mark = row[0].strip()
    if mark.startswith(REMARKS):
        return width > 1 and (len(row) != width or mark in REMARKS)
    title, *others = (cell.strip() for cell in row)
    is_text = bool(title) and number_of(title, ".") is None
    return width >= LEAST_CELLS and is_text and not any(others)


def _is_padded(row: list[str], width: int) -> bool:
    """Whether a row that is no remark has a cell for each column: it may be one of the table's."""
    return len(row) == width and any(row) and not row[0].strip().startswith(REMARKS)


def _are_names(row: list[str]) -> bool:
    return all(cell.strip() and number_of(cell.strip(), ".") is None for cell in row)
