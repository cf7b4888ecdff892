"""What the house promises about itself: walls, sizes, names, and how fast it answers."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [
    path
    for package in ("data", "vae_engine", "flows")
    for path in (ROOT / package).rglob("*.py")
]


def imported_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


def test_the_engine_imports_no_tables_and_no_trackers() -> None:
    everything = ", ".join(
        f"vae_engine.{path.stem}" for path in (ROOT / "vae_engine").glob("[a-z]*.py")
    )

    assert not imported_by(everything) & {"pandas", "pyarrow", "prefect", "mlflow"}


def test_data_imports_no_torch() -> None:
    everything = ", ".join(f"data.{path.stem}" for path in (ROOT / "data").glob("[a-z]*.py"))

    assert not imported_by(everything) & {"torch", "prefect", "mlflow"}


def test_the_command_line_answers_without_heavy_imports() -> None:
    assert not imported_by("flows.cli") & {"torch", "mlflow", "prefect", "pandas", "pyarrow"}


def test_help_is_quick() -> None:
    """By the processor's time, which other work on the machine lengthens less than the clock's."""
    times_s = []
    for _ in range(3):
        before = spent_by_children_s()
        subprocess.run(
            [sys.executable, "-m", "flows.cli", "--help"], capture_output=True, check=True
        )
        times_s.append(spent_by_children_s() - before)

    assert min(times_s) < 0.5  # the promise of the command line; the best of three, for noise


def spent_by_children_s() -> float:
    """Processor time of the processes that ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_one_idea_of_at_most_400_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    assert "util" not in path.stem


def test_every_error_that_has_an_exit_code_exists() -> None:
    from importlib import import_module

    from flows.exits import EXIT_CODES

    for name in EXIT_CODES:
        module, _, cls = name.rpartition(".")
        assert issubclass(getattr(import_module(module), cls), Exception)
