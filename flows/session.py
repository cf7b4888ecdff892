"""What every command of `latents` has: its options, and a session that turns errors into codes."""

import json
import logging
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console

from flows.exits import INTERRUPTED, TERMINATED, exit_code
from flows.settings import Home, prepare_environment, resolve_home

SpecArgument = Annotated[str, typer.Argument(metavar="SPEC", help="catalog name, TOML or data")]
NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="name of the data set or model")
]
NameOrAll = Annotated[str | None, typer.Argument(metavar="[NAME]", help="one; all without it")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="override, as training.epochs=5"),
]
EngineOption = Annotated[
    Literal["local", "ray"] | None,
    typer.Option("--engine", help="ray: shards as tasks of a cluster, or of this machine"),
]
ProfileOption = Annotated[
    bool, typer.Option("--profile", help="say where the time went, start-up included")
]
ProcessesOption = Annotated[
    int | None, typer.Option("--processes", help="that train together", min=1)
]
HomeOption = Annotated[
    str | None,
    typer.Option(
        "--home", help="folder or s3://BUCKET/PREFIX; else $LATENTS_HOME, else ./latents-home"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="one JSON object on standard output")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="no progress")]
DebugOption = Annotated[bool, typer.Option("--debug", help="tracebacks and library logs")]


@dataclass(frozen=True)
class Session:
    """What a command works with: where things live, and how to say what came out."""

    home: Home
    as_json: bool
    console: Console

    def show(self, value: Any, *, as_text: Any) -> None:
        """Print `value` as JSON, or what `as_text` draws from it."""
        if self.as_json:
            sys.stdout.write(json.dumps(value, indent=2) + "\n")
            sys.stdout.flush()
        else:
            as_text(value, self.console)


class Terminated(BaseException):
    """SIGTERM came: someone wants this process to end in good order."""


SIGNALLED: dict[type[BaseException], tuple[str, int]] = {
    Terminated: ("terminated", TERMINATED),
    KeyboardInterrupt: ("interrupted", INTERRUPTED),
}


def _terminated(*_: object) -> NoReturn:
    raise Terminated


@contextmanager
def session(
    home: str | None, *, as_json: bool = False, quiet: bool = False, debug: bool = False
) -> Iterator[Session]:
    """Prepare the environment and logging; turn errors into a few lines and an exit code."""
    messages = Console(stderr=True, quiet=quiet)
    handler = _attach_progress(messages)
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        resolved = resolve_home(home)
        prepare_environment(resolved, debug=debug)
        yield Session(resolved, as_json, Console())
    # The one place where errors become exit codes.
    except (Exception, Terminated, KeyboardInterrupt) as error:  # noqa: BLE001
        code = _explain(error, as_json=as_json, debug=debug)
    else:
        return
    finally:
        signal.signal(signal.SIGTERM, before)
        logging.getLogger("flows").removeHandler(handler)
        handler.close()
    raise typer.Exit(code)


def _attach_progress(console: Console) -> logging.Handler:
    from flows.progress import ProgressHandler

    handler = ProgressHandler(console)
    ours = logging.getLogger("flows")
    ours.setLevel(logging.INFO)
    ours.addHandler(handler)
    ours.propagate = False
    return handler


def _explain(error: BaseException, *, as_json: bool, debug: bool) -> int:
    if (signalled := _signal_behind(error)) is not None:
        message = f"{signalled[0]}; run the same command again to resume"
        return _fail(message, signalled[1], as_json=as_json)
    if debug:
        traceback.print_exception(error)
    code = exit_code(error)
    if code is not None:
        return _fail(str(error), code, as_json=as_json)
    what = f"{type(error).__name__}: {error}"
    hint = "" if debug else "\nThis is not an error that we expected; --debug shows where."
    return _fail(what + hint, 1, as_json=as_json)


def _signal_behind(error: BaseException) -> tuple[str, int] | None:
    """What came, where a signal is behind this error, and its exit code.

    Libraries wrap what a signal raises in an error of theirs: Python itself as it makes a class,
    and Pydantic, which keeps no more than its name.
    """
    cause: BaseException | None = error
    while cause is not None:
        for kind, signalled in SIGNALLED.items():
            if isinstance(cause, kind) or f"{kind.__name__}:" in str(cause):
                return signalled
        cause = cause.__cause__ or cause.__context__
    return None


def _fail(message: str, code: int, *, as_json: bool) -> int:
    if as_json:
        sys.stdout.write(json.dumps({"error": message, "exit_code": code}) + "\n")
    Console(stderr=True).print(f"[bold red]error[/] {_escaped(message)}", highlight=False)
    return code


def _escaped(message: str) -> str:
    from rich.markup import escape

    return escape(message)
