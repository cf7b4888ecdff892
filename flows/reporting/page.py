"""The report as one HTML file: everything inline, nothing fetched, the same bytes every time."""

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from flows.reporting import column_table, figures, forests, marginal, sections
from flows.reporting.charts import number
from flows.reporting.fidelity import compare_marginals
from flows.reporting.following import followed_columns
from flows.reporting.imagery import draw_imagery
from flows.reporting.latent_map import draw_map
from flows.reporting.records import Records
from flows.reporting.specimen import Specimen

Table = list[dict[str, Any]]


class Page(NamedTuple):
    """The page of a run, and its parts for those who show them elsewhere."""

    html: str
    figures: Mapping[str, bytes]  # by file name: SVG and PNG
    fidelity: Table  # observed beside sampled rows, a line each column


def render(records: Records) -> Page:
    """Draw the page of a run: the only place that opens its model and looks at its rows."""
    specimen = Specimen.of(records.folder)
    environment = _environment()
    script = _template("report.js")
    imagery = draw_imagery(specimen, records.strengths)
    fidelity = compare_marginals(specimen)
    html = environment.get_template("report.html.j2").render(
        records=records,
        sections=sections,
        marginal=marginal,
        forests=forests,
        column_table=column_table,
        style=Markup(_template("report.css")),  # ours
        script=Markup(script),  # ours
        script_hash=_hash(script),
        map=draw_map(specimen),
        imagery=imagery,
        following=followed_columns(specimen, records.strengths),
        fidelity=fidelity,
    )
    drawing = environment.get_template("figure.svg.j2")
    charts = {
        f"{name}.svg": drawing.render(it=chart, colors=figures.COLORS).encode()
        for name, chart in figures.charts(records).items()
    }
    return Page(
        html,
        charts | figures.pictures(imagery),
        [
            {
                "column": one.name,
                "kind": one.kind,
                "distance": one.distance,
                "by_chance": one.by_chance,
            }
            for one in (fidelity.marginals if fidelity else ())
        ],
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("flows.reporting", "templates"),
        autoescape=True,  # names, categories and keys come from anyone's data
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["bytes"] = _bytes
    return environment


def _template(name: str) -> str:
    return (resources.files("flows.reporting") / "templates" / name).read_text("utf-8")


def _hash(script: str) -> str:
    """What the page's policy knows its one script by: no other may run."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _bytes(size: Any) -> str:
    value = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{number(value)} {unit}"
