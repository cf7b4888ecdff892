"""The report as one HTML file: everything inline, nothing fetched, the same bytes every time."""

import base64
import hashlib
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from flows.reporting import column_table, forests, sections
from flows.reporting.charts import number
from flows.reporting.fidelity import compare_marginals
from flows.reporting.following import followed_columns
from flows.reporting.imagery import draw_imagery
from flows.reporting.latent_map import draw_map
from flows.reporting.records import Records
from flows.reporting.specimen import Specimen


def render(records: Records) -> str:
    """Draw the page of a run: the only place that opens its model and looks at its rows."""
    specimen = Specimen.of(records.folder)
    script = _template("report.js")
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            records=records,
            sections=sections,
            forests=forests,
            column_table=column_table,
            style=Markup(_template("report.css")),  # ours
            script=Markup(script),  # ours
            script_hash=_hash(script),
            map=draw_map(specimen),
            imagery=draw_imagery(specimen, records.strengths),
            following=followed_columns(specimen, records.strengths),
            fidelity=compare_marginals(specimen),
        )
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
