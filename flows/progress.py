"""Progress of long work: the stages say how far they are, the command line decides how to show it.

A stage calls `advance`; that is a log record with three numbers on it. On a terminal it
becomes a bar, elsewhere a plain line every few seconds, under a Prefect worker a log line.
"""

import logging
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

logger = logging.getLogger(__name__)
QUIET_S = 5.0  # between two plain lines of the same stage


def advance(stage: str, done: int, total: int, text: str) -> None:
    """Say that `stage` has done `done` of `total`, and something worth reading about it."""
    record = {"stage": stage, "done": done, "total": total, "text": text}
    logger.info("%s %d/%d: %s", stage, done, total, text, extra={"progress": record})


class ProgressHandler(logging.Handler):
    """Shows progress records on a console: bars on a terminal, lines elsewhere."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self.console = console
        self.bars = Progress(
            TextColumn("{task.fields[stage]:>9}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}"),
            console=console,
            transient=True,
        )
        self.tasks: dict[str, int] = {}
        self.shown: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Draw one record."""
        fields = getattr(record, "progress", None)
        if fields is None:
            if record.levelno >= logging.WARNING:
                self.console.print(f"[yellow]{record.getMessage()}[/]", highlight=False)
        elif self.console.is_terminal:
            self._draw(**fields)
        elif monotonic() - self.shown.get(fields["stage"], -QUIET_S) >= QUIET_S:
            self.shown[fields["stage"]] = monotonic()
            self.console.print(record.getMessage(), highlight=False)

    def _draw(self, *, stage: str, done: int, total: int, text: str) -> None:
        if not self.tasks:
            self.bars.start()
        if stage not in self.tasks:
            self.tasks[stage] = self.bars.add_task("", total=total, stage=stage, text=text)
        task = self.bars.tasks[self.tasks[stage]].id
        self.bars.update(task, completed=done, total=total, text=text)

    def close(self) -> None:
        """Take the bars off the screen."""
        if self.tasks:
            self.bars.stop()
        super().close()
