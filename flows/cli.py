"""The command line: `latents`. Parses, calls the flows, shows what came out.

Heavy libraries are imported by the commands that need them, so that `--help` is quick.
"""

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flows.exits import INTERRUPTED, exit_code
from flows.settings import Home, prepare_environment, resolve_home

app = typer.Typer(
    name="latents",
    help="Any data set in, trustworthy latent features out.",
    epilog="SPEC is a name in the catalog (mnist), a TOML file, or simply the data: a file, "
    "a folder, a glob or a URL; then everything is inferred.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

SpecArgument = Annotated[str, typer.Argument(metavar="SPEC", help="catalog name, TOML or data")]
NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="name of the data set or model")
]
NameOrAll = Annotated[str | None, typer.Argument(metavar="[NAME]", help="one; all without it")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="override, as training.epochs=5"),
]
HomeOption = Annotated[
    Path | None, typer.Option("--home", help="else $LATENTS_HOME, else ./latents-home")
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
        else:
            as_text(value, self.console)


@contextmanager
def session(
    home: Path | None, *, as_json: bool = False, quiet: bool = False, debug: bool = False
) -> Iterator[Session]:
    """Prepare the environment and logging; turn errors into a few lines and an exit code."""
    resolved = resolve_home(home)
    messages = Console(stderr=True, quiet=quiet)
    handler = _attach_progress(messages)
    try:
        prepare_environment(resolved, debug=debug)
        yield Session(resolved, as_json, Console())
    except KeyboardInterrupt:
        code = _fail("interrupted; run the same command again to resume", INTERRUPTED, as_json)
    except Exception as error:  # noqa: BLE001  # the one place where errors become exit codes
        code = _explain(error, as_json=as_json, debug=debug)
    else:
        return
    finally:
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


def _explain(error: Exception, *, as_json: bool, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    code = exit_code(error)
    if code is not None:
        return _fail(str(error), code, as_json)
    what = f"{type(error).__name__}: {error}"
    hint = "" if debug else "\nThis is not an error that we expected; --debug shows where."
    return _fail(what + hint, 1, as_json)


def _fail(message: str, code: int, as_json: bool) -> int:
    if as_json:
        sys.stdout.write(json.dumps({"error": message, "exit_code": code}) + "\n")
    Console(stderr=True).print(f"[bold red]error[/] {_escaped(message)}", highlight=False)
    return code


def _escaped(message: str) -> str:
    from rich.markup import escape

    return escape(message)


def _run_until(stage: str, spec: str, overrides: list[str] | None, at: Session) -> None:
    from flows import show
    from flows.launch import run_pipeline
    from flows.spec import load_spec

    loaded = load_spec(spec, overrides or ())
    if loaded.sweep:
        from flows.sweep import run_sweep

        at.show(run_sweep(loaded, at.home), as_text=show.sweep)
    else:
        at.show(run_pipeline(loaded, at.home, until=stage), as_text=show.summary)


def _stage_command(name: str, stage: str, text: str) -> None:
    def command(
        spec: SpecArgument,
        set_: SetOption = None,
        home: HomeOption = None,
        as_json: JsonOption = False,
        quiet: QuietOption = False,
        debug: DebugOption = False,
    ) -> None:
        with session(home, as_json=as_json, quiet=quiet, debug=debug) as at:
            _run_until(stage, spec, set_, at)

    app.command(name, help=text)(command)


_stage_command("run", "report", "ingest → train → evaluate → register → encode, and a report")
_stage_command("ingest", "ingest", "check a data set and make its snapshot")
_stage_command("train", "train", "train the model (stages before run if they have not)")
_stage_command("evaluate", "evaluate", "measure the ELBO and log p(x) on the test split")
_stage_command("register", "register", "make the model a version in the registry, and judge it")
_stage_command("encode", "encode", "publish the features of every row")


@app.command()
def features(
    name: NameOrAll = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List publications; show one: schema, rows, model version, how to read it."""
    with session(home, as_json=as_json, debug=debug) as at:
        from flows import lookup, show

        if name is None:
            at.show(lookup.publications(at.home), as_text=show.publications)
        else:
            at.show(lookup.publication(at.home, name), as_text=show.publication)


@app.command()
def models(
    name: NameOrAll = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Versions, aliases, ELBO and log p(x) with error bars."""
    with session(home, as_json=as_json, debug=debug) as at:
        from flows import lookup, show

        at.show(lookup.models(at.home, name), as_text=show.models)


@app.command()
def promote(
    name: NameArgument,
    version: Annotated[int, typer.Argument(help="version that becomes champion")],
    home: HomeOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Move the alias champion to VERSION; the history is kept."""
    with session(home, as_json=as_json, debug=debug) as at:
        from flows import show
        from flows.promotion import promote as move

        at.show(move(at.home, name, version), as_text=show.promotion)


@app.command()
def rollback(
    name: NameArgument,
    home: HomeOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Make the champion before this one champion again."""
    with session(home, as_json=as_json, debug=debug) as at:
        from flows import show
        from flows.promotion import rollback as move_back

        at.show(move_back(at.home, name), as_text=show.promotion)


@app.command()
def report(
    name: NameArgument,
    home: HomeOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write the HTML report of the newest run of NAME, and print its path."""
    with session(home, as_json=as_json, debug=debug) as at:
        from flows import show
        from flows.report import write_latest_report

        at.show({"report": str(write_latest_report(at.home, name))}, as_text=show.path)


@app.command()
def doctor(
    home: HomeOption = None, as_json: JsonOption = False, debug: DebugOption = False
) -> None:
    """Versions, devices, servers reachable, home writable: one line each."""
    with session(home, as_json=as_json, debug=debug) as at:
        from flows import show
        from flows.doctor import examine

        findings = examine(at.home)
        at.show(findings, as_text=show.findings)
        healthy = all(finding["ok"] for finding in findings)
    if not healthy:
        raise typer.Exit(1)


def main() -> None:
    """Entry point of the command `latents`."""
    app()


if __name__ == "__main__":
    main()
