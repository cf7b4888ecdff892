"""`latents init`: a spec to begin with, each guess with its reason; a person corrects it."""

from pathlib import Path
from typing import Any

from data.draft import draft_spec
from data.publication import put_once
from flows.spec import SpecError, load_spec


def init(source: str, out: Path | None = None, *, query: str | None = None) -> dict[str, Any]:
    """Draft the spec of a source; with `out`, write it there, where nothing is yet.

    Raises:
        SpecError: the source is a spec already, or `out` is there already.
        SourceError: the source cannot be read, or has nothing in it.
    """
    if Path(source).suffix == ".toml":
        raise SpecError(f"{source} is a spec already; `latents run {source}` runs it")
    dataset = load_spec(source).dataset
    named = dataset.source if out is None else _seen_from(out, dataset.source)
    text = draft_spec(dataset.source, name=dataset.name, query=query)
    text = text.replace(_line(dataset.source), _line(named), 1)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        if not put_once(out, text.encode()):
            raise SpecError(f"{out} is there already; remove it, or choose another --out")
    return {"spec": None if out is None else str(out), "text": text}


def _seen_from(out: Path, source: str) -> str:
    """The source relative to the spec's folder where it lies below it: they may move together."""
    folder = out.resolve().parent
    there = Path(source)
    return str(there.relative_to(folder)) if there.is_relative_to(folder) else source


def _line(source: str) -> str:
    return f'\nsource = "{source}"\n'
