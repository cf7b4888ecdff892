"""The command line: `latents`. Parses, calls the flows, shows what came out.

Heavy libraries are imported by the commands that need them, so that `--help` is quick.
"""

import json
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.collector import end_at_once
from flows.exits import DRIFTED
from flows.session import (
    DebugOption,
    EngineOption,
    HomeOption,
    JsonOption,
    NameArgument,
    NameOrAll,
    ProcessesOption,
    ProfileOption,
    QuietOption,
    Session,
    SetOption,
    SpecArgument,
    Terminated,
    session,
)
from flows.settings import POOL

if TYPE_CHECKING:
    from flows.runs import StageName

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


def _run_until(
    stage: "StageName", spec: str, overrides: list[str], at: Session, *, profile: bool = False
) -> None:
    from flows import show
    from flows.launch import run_pipeline
    from flows.spec import SpecError, load_spec

    loaded = load_spec(spec, overrides)
    if loaded.sweep:
        from flows.sweep import run_sweep

        if profile:
            raise SpecError("--profile is for one run, and this spec has a sweep")
        at.show(run_sweep(loaded, at.home), as_text=show.sweep)
    elif profile:
        from flows.profiling import profiled

        run = partial(run_pipeline, loaded, at.home, until=stage)
        found = profiled(lambda load: run(load=load), at.home)
        at.show(found, as_text=show.profiled)
    else:
        at.show(run_pipeline(loaded, at.home, until=stage), as_text=show.summary)


def _settings(overrides: list[str] | None, **execution: str | int | None) -> list[str]:
    """What the options say of the spec, as overrides of it."""
    said = [f"execution.{key}={value}" for key, value in execution.items() if value is not None]
    return [*(overrides or ()), *said]


def _stage_command(name: str, stage: "StageName", text: str) -> None:
    def command(  # noqa: PLR0913  # each is an option
        spec: SpecArgument,
        engine: EngineOption = None,
        processes: ProcessesOption = None,
        set_: SetOption = None,
        home: HomeOption = None,
        profile: ProfileOption = False,
        as_json: JsonOption = False,
        quiet: QuietOption = False,
        debug: DebugOption = False,
    ) -> None:
        with session(home, as_json=as_json, quiet=quiet, debug=debug) as at:
            settings = _settings(set_, engine=engine, processes=processes)
            _run_until(stage, spec, settings, at, profile=profile)

    app.command(name, help=text)(command)


_stage_command("run", "report", "ingest → train → evaluate → register → encode, and a report")
_stage_command("ingest", "ingest", "check a data set and make its snapshot")
_stage_command("train", "train", "train the model (stages before run if they have not)")
_stage_command("evaluate", "evaluate", "measure the ELBO and log p(x) on the test split")
_stage_command("register", "register", "make the model a version in the registry, and judge it")


@app.command()
def encode(
    spec: SpecArgument,
    model_version: Annotated[
        int | None, typer.Option(help="this version instead of the champion", min=1)
    ] = None,
    engine: EngineOption = None,
    set_: SetOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Publish the features of every row; by an older version, beside the champion's."""
    with session(home, as_json=as_json, quiet=quiet, debug=debug) as at:
        settings = _settings(set_, engine=engine)
        if model_version is None:
            _run_until("encode", spec, settings, at)
            return
        from flows import show
        from flows.backfill import backfill
        from flows.spec import load_spec

        value = backfill(load_spec(spec, settings), at.home, model_version)
        at.show(value, as_text=show.summary)


@app.command()
def init(  # each is an option
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="a file, folder, glob or URL")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="else it is printed")
    ] = None,
    query: Annotated[str | None, typer.Option(help="of a database")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Look at a data set and write a commented spec, which runs as it stands."""
    with session(home, as_json=as_json, debug=debug) as at:
        from flows import show
        from flows.init import init as draft

        at.show(draft(source, out, query=query), as_text=show.drafted)


@app.command()
def monitor(
    spec: SpecArgument,
    source: Annotated[
        str | None,
        typer.Option(metavar="NEW", help="new data; else the spec's source as it is"),
    ] = None,
    set_: SetOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Compare new data with what the champion was trained on; exit code 7 where they drifted."""
    with session(home, as_json=as_json, quiet=quiet, debug=debug) as at:
        from flows import show
        from flows.monitor import monitor as compare
        from flows.spec import load_spec

        found = compare(load_spec(spec, set_ or ()), at.home, source)
        at.show(found, as_text=show.drift)
        drifted = found["drifted"]
    if drifted:
        raise typer.Exit(DRIFTED)


@app.command()
def features(  # noqa: PLR0913  # each is an option
    name: NameOrAll = None,
    verify: Annotated[bool, typer.Option("--verify", help="compare every file first")] = False,
    diff: Annotated[
        str | None, typer.Option(metavar="PUBLICATION", help="how it differs from the latest")
    ] = None,
    gc: Annotated[bool, typer.Option("--gc", help="remove what killed writers left")] = False,
    keep: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="with --gc: publications of a version; older ones that no reader finds go",
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="URL", help="copy to postgresql://HOST/DATABASE"),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List publications; show, verify or compare one; copy one to a database."""
    with session(home, as_json=as_json, debug=debug) as at:
        from flows import lookup, show
        from flows.spec import SpecError

        if keep is not None and not gc:
            raise SpecError("--keep goes with --gc: latents features --gc --keep 3")
        if gc:
            from flows import upkeep

            at.show(upkeep.clear(at.home, keep=keep), as_text=show.cleared)
        elif name is None:
            if to or verify or diff:
                raise SpecError("--to, --verify and --diff need a name: latents features NAME")
            at.show(lookup.publications(at.home), as_text=show.publications)
        elif to is not None:
            from flows.postgres import copy_features

            at.show(copy_features(at.home, name, to), as_text=show.copied)
        elif diff is not None:
            from flows import upkeep

            at.show(upkeep.compare(at.home, name, diff), as_text=show.difference)
        elif verify:
            from flows import upkeep

            at.show(upkeep.verify(at.home, name), as_text=show.publication)
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
def deploy(  # noqa: PLR0913  # each is an option
    spec: SpecArgument,
    cron: Annotated[str | None, typer.Option(help='when, as "0 3 * * *"')] = None,
    timezone: Annotated[str | None, typer.Option(help="of the cron; else UTC")] = None,
    on: Annotated[
        list[str] | None, typer.Option(help="an event that starts a run: arrival, drift")
    ] = None,
    stage: Annotated[
        str, typer.Option(help="the last stage that runs; or monitor, or backfill")
    ] = "report",
    model_version: Annotated[
        int | None, typer.Option(help="that a backfill encodes by", min=1)
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(metavar="VARIABLE=BLOCK", help="from a secret block of Prefect's"),
    ] = None,
    pool: Annotated[str, typer.Option(help="work pool")] = POOL,
    set_: SetOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Make a Prefect deployment of SPEC: by schedule, by event, or by hand."""
    with session(home, as_json=as_json, debug=debug) as at:
        from flows import show
        from flows.deploy import deploy as make
        from flows.spec import load_spec

        given = {"cron": cron, "timezone": timezone, "on": on}
        schedule = [f"schedule.{key}={json.dumps(v)}" for key, v in given.items() if v]
        secrets = dict(text.partition("=")[::2] for text in secret or ())
        loaded = load_spec(spec, [*(set_ or ()), *schedule])
        made = make(loaded, stage=stage, version=model_version, secrets=secrets, pool=pool)
        at.show(made, as_text=show.deployment)


@app.command()
def up(
    prefect_port: Annotated[int | None, typer.Option(help="else 4200, or a free one")] = None,
    mlflow_port: Annotated[int | None, typer.Option(help="else 5000, or a free one")] = None,
    watch_every: Annotated[
        float, typer.Option(help="seconds between two looks for new data", min=0.1)
    ] = 10.0,
    home: HomeOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Start Prefect, MLflow and a worker for this home; Ctrl-C stops them."""
    with session(home, as_json=as_json, debug=debug) as at:
        from flows import show
        from flows.up import running, watch_over

        with (
            suppress(KeyboardInterrupt, Terminated),  # how it is asked to end
            running(
                at.home,
                prefect_port=prefect_port,
                mlflow_port=mlflow_port,
                watch_every_s=watch_every,
            ) as (addresses, children),
        ):
            at.show(addresses, as_text=show.servers)
            watch_over(children)


@app.command()
def watch(
    every: Annotated[float, typer.Option(help="seconds between two looks", min=0.1)] = 10.0,
    home: HomeOption = None,
    debug: DebugOption = False,
) -> None:
    """Start the deployments that wait for new data when their source has changed."""
    with session(home, debug=debug) as at:
        from flows.watch import watch as look

        look(at.home, every_s=every)


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
    end_at_once()
    app()


if __name__ == "__main__":
    main()
