"""Train as a rank of torchrun's, on one machine or several that share the home.

    torchrun --nproc-per-node 2 -m flows.torchrun SPEC [--set KEY=VALUE ...] [--home DIR]

Afterwards `latents run SPEC` finds the model trained, and goes on from there.
"""

import threading
from typing import Annotated

import typer

from flows.session import HomeOption, SetOption, SpecArgument
from flows.settings import prepare_environment, resolve_home

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    spec: SpecArgument,
    rank: Annotated[int, typer.Option(envvar="RANK")],
    world_size: Annotated[int, typer.Option(envvar="WORLD_SIZE")],
    set_: SetOption = None,
    home: HomeOption = None,
) -> None:
    """Ingest and train; every rank is given the same arguments."""
    place = resolve_home(home)
    prepare_environment(place)
    from flows.ingest import ingest_dataset
    from flows.ranks import joined
    from flows.spec import load_spec
    from flows.train import train_together

    loaded = load_spec(spec, set_ or ())
    snapshot = ingest_dataset(loaded, place).value["path"]  # once: the others wait and find it
    with joined(rank, world_size) as ranks:
        train_together(loaded, place, snapshot, ranks, threading.Event())


if __name__ == "__main__":
    app()
