"""The report of two real, small runs: what it says, what it never says, and how it opens."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data.publication import canonical_json, replace_file
from data.snapshot import open_snapshot
from flows.encode import publish
from flows.evaluate import evaluate_model
from flows.ingest import ingest_dataset
from flows.lookup import NotFoundError
from flows.report import write_latest_report, write_report
from flows.reporting.page import render
from flows.reporting.records import Records
from flows.reporting.sections import information, nats, snippets
from flows.runs import RunFolder, read_record
from flows.settings import Home
from flows.spec import Spec
from flows.train import train_model
from tests.flows.browser import CHROMIUM, Page, browser, take_screenshots
from tests.flows.conftest import digits_table

HOSTILE = "<script>alert('x')</script>"
GATE = {
    "passed": True,
    "reason": "3 active units, 1 asked for",
    "checks": [
        {"name": "no collapse", "passed": True, "evidence": "3 active units, 1 asked for"}
    ],
    "champion_before": None,
}

DRIFT = {
    "verdict": "drift: 1 column drifted",
    "drifted": True,
    "time_ms": 1_700_000_000_000,
    "rows": 300,
    "source": "new.parquet",
    "breaches": [],
    "columns": [
        {
            "name": "income",
            "distance": 0.3,
            "drifted": True,
            "ks": 0.21,
            "verdict": "drifted",
            "why": "PSI is large",
        }
    ],
    "model": {
        "rows": [60, 300],
        "elbo_shift_nats": -1.5,
        "elbo_shift_nats_stderr": 0.25,
        "elbo_ks": 0.25,
        "latent_shift": [0.0, 0.1, 0.5],
        "latent_shift_stderr": [0.1, 0.1, 0.1],
        "latent_ks": [0.02, 0.1, 0.31],
    },
}


@dataclass(frozen=True)
class Run:
    """A run made by the stages themselves, without Prefect and MLflow, up to the report."""

    spec: Spec
    home: Home
    folder: RunFolder

    @property
    def evaluation(self) -> Path:
        """The record of what was measured."""
        (record,) = self.folder.path.glob("evaluation-*.json")
        return record

    @property
    def records(self) -> Records:
        """Everything that the report is drawn from, as it is now."""
        return Records.of(self.home, self.folder, self.evaluation)

    def keep(self, name: str, value: dict[str, Any]) -> None:
        """Put a stage's record into the run's folder."""
        replace_file(self.folder.record(name), canonical_json(value).encode())


def made(name: str, table: pa.Table, folder: Path, **dataset: Any) -> Run:
    """Run the stages on a table; version 3 is champion and has encoded it."""
    source = folder / f"{name}.parquet"
    pq.write_table(table, source)
    spec = Spec.model_validate(
        {
            "dataset": {"name": name, "source": str(source), **dataset},
            "model": {"latents": 3, "hidden": [32]},
            "training": {"epochs": 12},
            "evaluation": {"rows": 60, "importance_samples": 50},
        }
    )
    home = Home(folder / "home")
    snapshot = ingest_dataset(spec, home).value["path"]
    trained = train_model(spec, home, snapshot).value
    evaluate_model(spec, trained["path"])
    run = Run(spec, home, RunFolder(Path(trained["path"])))
    registration = {
        "name": name,
        "version": 3,
        "digest": trained["digest"],
        "aliases": ["challenger"],
        "mlflow_run": "0123456789abcdef",
        "encoder": {
            "name": name,
            "version": 3,
            "digest": trained["digest"],
            "folder": str(run.folder.model),
            "champion": True,
        },
    }
    publish(spec.encoding, home, open_snapshot(Path(snapshot)), registration["encoder"])
    run.keep("gate", GATE)
    run.keep("registration", registration)
    return run


def people(rows: int = 500) -> pa.Table:
    """One column of each kind, cells missing, names and values that look like markup."""
    random = np.random.default_rng(0)
    size = random.normal(size=rows)
    kinds = np.array(["plain", HOSTILE, 'it\'s "quoted" & more'])
    return pa.table(
        {
            "person": [f"person-{row:04d}" for row in range(rows)],
            "height <cm>": pa.array(170 + 8 * size, mask=random.random(rows) < 0.1),
            "income": np.exp(10 + 0.5 * size + 0.2 * random.normal(size=rows)),
            "visits": pa.array(random.negative_binomial(1, 0.05, rows), pa.int64()),
            "member": random.random(rows) < 1 / (1 + np.exp(-size)),
            "sort": kinds[np.digitize(size, [-0.5, 0.5])],
            "remark": [f"told in confidence {row}" for row in range(rows)],
            "group": np.where(size > 0, "tall", HOSTILE),
        }
    )


@pytest.fixture(scope="module")
def table_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("people")
    columns = {"remark": {"kind": "carry"}}
    return made("people", people(), folder, key="person", label="group", columns=columns)


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("digits")
    return made("digits", digits_table()[:900], folder, key="id", label="label")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium: the page is judged by a browser")
    with browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


class Text(HTMLParser):
    """The words of a page, and its elements' names and ids."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words = ""
        self.tags: list[str] = []
        self.ids: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids |= {value for name, value in attrs if name == "id" and value}

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("which", ["table_run", "digits_run"])
def test_the_page_opens_whole_and_asks_for_nothing(
    page: Page, which: str, dark: bool, width: int, request: pytest.FixtureRequest
) -> None:
    run: Run = request.getfixturevalue(which)
    report = write_latest_report(run.home, run.spec.dataset.name)

    page.open(report, width=width, dark=dark)

    assert page.complaints == []
    asked = [url for url in page.requests if not url.startswith("data:")]
    assert asked == [report.as_uri()]
    assert page.value_of("[...document.images].filter((i) => !i.naturalWidth).length") == 0
    assert page.value_of("document.images.length") == (0 if which == "table_run" else 39)
    assert page.value_of("document.documentElement.scrollWidth") == width


def test_screenshots_show_the_page(page: Page, digits_run: Run, tmp_path: Path) -> None:
    report = write_latest_report(digits_run.home, "digits")

    taken = take_screenshots(page, report, tmp_path)

    sizes = []
    for path in taken:
        with Image.open(path) as picture:
            sizes.append(picture.size)
            colors = picture.convert("RGB").getcolors(maxcolors=2**24)
        assert colors is not None
        assert len(colors) > 100
    assert sizes[:4] == [(1280, 900)] * 2 + [(390, 900)] * 2
    assert all(width <= 1280 for width, _ in sizes[4:])  # single sections, for a README


def test_its_words_can_be_read_in_the_light_and_in_the_dark(page: Page, table_run: Run) -> None:
    """WCAG 2.1, success criterion 1.4.3: a contrast of 4.5 between text and what is behind it."""
    report = write_latest_report(table_run.home, "people")
    for dark in (False, True):
        page.open(report, width=1280, dark=dark)

        faint = page.value_of(CONTRAST)

        assert faint == []


def test_pointing_at_a_row_shows_its_key_its_label_and_its_picture(
    page: Page, digits_run: Run
) -> None:
    page.open(write_latest_report(digits_run.home, "digits"), width=1280)
    assert page.value_of("document.querySelector('.tip').hidden") is True

    page.move_to(".map circle:nth-of-type(5)")

    words = page.value_of("document.querySelector('.tip span').textContent")
    assert re.fullmatch(r"id digit-\d{4}\nlabel \d", words)
    key, label = words.removeprefix("id ").split("\nlabel ")
    table = digits_table()
    assert str(table["label"][table["id"].to_pylist().index(key)]) == label
    assert page.value_of(BRIGHTEST) > 200


def test_pointing_at_a_curve_reads_its_values(page: Page, table_run: Run) -> None:
    page.open(write_latest_report(table_run.home, "people"), width=390)

    page.move_to("#training .frame", x=0.99)

    words = page.value_of("document.querySelector('#training .readout').textContent")
    assert re.fullmatch(r"epoch \S+:  train −\S+  valid −\S+", words)


def test_the_arrow_keys_go_from_row_to_row(page: Page, table_run: Run) -> None:
    page.open(write_latest_report(table_run.home, "people"), width=1280)
    page.value_of("document.querySelector('.map svg').focus()")

    seen = []
    for _ in range(2):
        for kind in ("keyDown", "keyUp"):
            page.call("Input.dispatchKeyEvent", type=kind, key="ArrowRight", code="ArrowRight")
        seen.append(page.value_of("document.querySelector('.tip span').textContent"))

    assert all(re.match(r"person person-\d{4}\ngroup ", words) for words in seen)
    assert seen[0] != seen[1]


def test_the_headline_is_what_the_records_say(table_run: Run) -> None:
    text = Text(render(table_run.records).html)
    seen = read_record(table_run.evaluation)

    for name in ("elbo", "log_marginal", "independent"):
        assert nats(seen[name]) in text.words
    assert f"{seen['active_units']} of 3" in text.words
    assert "from people version 3 (champion, challenger)" in " ".join(text.words.split())
    assert "✓ passed the gate" in text.words
    publication = table_run.records.publication
    assert publication is not None
    assert publication["data"] in text.words


def test_names_and_values_are_text_and_never_markup(table_run: Run) -> None:
    html = render(table_run.records).html

    assert HOSTILE not in html
    assert HOSTILE in Text(html).words
    assert Text(html).tags.count("script") == 2  # the words of the map, and ours
    assert "height <cm>" in Text(html).words


def test_cells_that_only_travel_along_stay_where_they_are(table_run: Run) -> None:
    assert "told in confidence" not in render(table_run.records).html


def test_equal_records_give_equal_bytes(digits_run: Run) -> None:
    assert render(digits_run.records) == render(digits_run.records)


def test_it_says_by_which_bound_weights_were_chosen(digits_run: Run) -> None:
    records = digits_run.records
    weighted = [
        row | {"valid/iwae_nats": row["valid/elbo_nats"] + 1} for row in records.metrics
    ]

    for metrics, bound in ((records.metrics, "ELBO"), (weighted, "IWAE bound")):
        html = render(replace(records, metrics=metrics)).html
        assert f"where the {bound} of the validation rows was highest" in html
        assert ("valid, IWAE" in html) == (bound != "ELBO")


def test_a_report_is_drawn_again_when_something_has_changed_and_only_then(
    digits_run: Run,
) -> None:
    def write() -> str:
        run = digits_run
        return write_report(run.spec, run.home, str(run.folder.path)).status

    digits_run.folder.record("report").unlink(missing_ok=True)
    assert [write(), write()] == ["ran", "reused"]
    before = digits_run.folder.report.read_bytes()

    digits_run.keep("gate", {**GATE, "passed": False})
    assert [write(), write()] == ["ran", "reused"]
    assert "✕ did not pass the gate" in digits_run.folder.report.read_text("utf-8")

    digits_run.keep("gate", GATE)
    assert write() == "ran"
    assert digits_run.folder.report.read_bytes() == before

    digits_run.folder.report.unlink()
    assert write() == "ran"


def test_what_was_not_measured_is_not_drawn(digits_run: Run, table_run: Run) -> None:
    pictures, numbers = (Text(render(run.records).html) for run in (digits_run, table_run))

    shared = {"data", "training", "bound", "marginal", "map", "probes", "gate", "read", "how"}
    extra = {"map-words"}
    assert pictures.ids == shared | extra | {"pictures"}
    assert numbers.ids == shared | extra | {"following", "fidelity"}
    assert "annealed" not in numbers.words


def test_what_was_measured_beside_is_drawn_too(table_run: Run) -> None:
    estimate = {"nats": -12.5, "stderr": 0.25, "rows": 100, "split": "test"}
    records = table_run.records
    records.evaluation["factor_analysis"] = {**estimate, "nats": -23.25}
    records.evaluation["bounds"] = {
        "lower": {**estimate, "nats": -34.5},
        "upper": {**estimate, "nats": -33.25},
        "width": {**estimate, "nats": 1.25},
    }
    assert records.gate is not None
    records.gate["champion_before"] = 2
    records.gate["comparison"] = {"difference_nats": 0.75, "stderr": 0.5, "rows": 60}
    records.evaluation["density"] = {**estimate, "nats": -11.75}
    records.evaluation["refused"] = {"density": "too many latents"}
    records.evaluation["log_marginal"] |= {
        "impossible_rows": 2,
        "tolerance_met_fraction": 0.9,
        "effort": {
            "tolerance_nats": 0.05,
            "budget_s": None,
            "fewest_samples": 100,
            "median_samples": 200,
            "most_samples": 6400,
            "samples": 31_000,
        },
    }
    records.evaluation["stability"] = {
        "first_from_second": 0.875,
        "first_from_second_stderr": 0.01,
        "second_from_first": 0.75,
        "second_from_first_stderr": 0.02,
        "canonical": [0.99, 0.5],
        "test_rows": 50,
        "train_rows": 400,
    }
    object.__setattr__(records, "drift", DRIFT)

    text = Text(render(records).html)

    words = " ".join(text.words.split())
    assert "factor analysis linear, of the same width −23.25" in words
    assert "on 100 rows drawn from the model: 1.25 ± 0.25 nats apart" in words
    assert "upper bound annealing back from the true latents −33.25" in words
    assert "this model − version 2 60 test rows 0.75 ± 0.50" in words
    assert "1 column drifted" in words
    assert "income 0.3 0.21 drifted PSI is large" in words
    assert "latent 2 KS 0.31 0.50 ± 0.10" in words
    assert "appendix D a fitted density; errs upwards −11.75" in words
    assert "density was refused: too many latents" in words
    rows = records.evaluation["log_marginal"]["rows"]
    assert f"2 of {rows} rows are impossible under this model" in words
    assert "up to a standard error of 0.05 nats a row: from 100 to 6,400" in words
    assert "these features from the second's 0.875 ± 0.010" in words
    assert "Canonical correlations of the two: 0.990, 0.500." in words
    assert "drift" in text.ids


def test_charts_and_pictures_are_files_too(digits_run: Run) -> None:
    page = render(digits_run.records)

    for name, content in page.figures.items():
        if name.endswith(".svg"):
            drawing = ElementTree.fromstring(content)
            assert drawing.tag.endswith("svg")
        else:
            assert Image.open(BytesIO(content)).size[0] > 1
    assert {"elbo.svg", "pareto-k.svg", "latents.svg", "samples-0.png"} <= page.figures.keys()
    assert page.fidelity == []  # the digits are pictures


def test_the_information_and_each_columns_reconstruction_are_told(table_run: Run) -> None:
    words = " ".join(Text(render(table_run.records).html).words.split())
    seen = table_run.records.evaluation

    assert f"{nats(seen['mutual_information'])} ± " in words
    assert f"{seen['reconstruction']['sort']['value']:.1%} come back wrong" in words
    assert (
        f"comes back within {seen['reconstruction']['income']['value']:.2f} standard" in words
    )


def test_information_that_few_rows_cannot_show_lies_between_bounds(table_run: Run) -> None:
    """The rate is a bound as well, and no more is said than rows can show: log 40 = 3.69."""
    seen = {name: {"nats": value, "stderr": 0.1, "rows": 40} for name, value in (
        ("mutual_information", 3.6), ("mutual_information_most", 30.0), ("rate", 9.0)
    )}  # fmt: skip

    words = information(replace(table_run.records, evaluation=seen))
    assert words.startswith("Between 3.60 ± 0.10 and 9.00 ± 0.10 nats of the rate")
    assert "40 test rows, which cannot show more than 3.69" in words
    seen["mutual_information_most"]["nats"] = 3.62
    words = information(replace(table_run.records, evaluation=seen))
    assert words.startswith("3.60 ± 0.10 nats of the rate")


def test_latents_without_a_kl_of_their_own_are_ranked_by_activity(digits_run: Run) -> None:
    records = digits_run.records
    records.evaluation["kl_per_latent"] = [None] * 3

    text = Text(render(records).html)

    assert "Activity of each latent" in text.words
    assert "strongest first, by activity" in text.words


def test_every_snippet_reads_the_features(table_run: Run) -> None:
    found = snippets(table_run.records)

    assert [title for title, _ in found][2:] == ["pandas", "Polars", "DuckDB"]
    for title, code in found:
        names: dict[str, Any] = {}
        exec(code, names)  # what a reader would paste
        frame = names.get("frame")
        rows = names["features"].rows if frame is None else len(frame)
        splits = table_run.records.snapshot.split_rows
        expected = {"DuckDB": splits["test"], "This project, with checks": splits["train"]}
        assert rows == expected.get(title, 500)


def test_a_name_without_a_run_is_told_the_near_miss(table_run: Run) -> None:
    with pytest.raises(NotFoundError) as caught:
        write_latest_report(table_run.home, "poeple")

    assert str(caught.value) == (
        "no run of 'poeple' has been trained and measured; did you mean 'people'?"
    )


BRIGHTEST = """
(() => {
  const canvas = document.querySelector(".tip canvas");
  return Math.max(...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data
    .filter((_, k) => k % 4 !== 3));
})()
"""

CONTRAST = """
(() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const luminance = (rgb) => rgb.slice(0, 3)
    .map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, k) => sum + c * [0.2126, 0.7152, 0.0722][k], 0);
  const over = (top, below) => {
    const alpha = top[3] ?? 1;
    return [0, 1, 2].map((k) => alpha * top[k] + (1 - alpha) * below[k]);
  };
  const behind = (element) => element
    ? over(channels(getComputedStyle(element).backgroundColor), behind(element.parentElement))
    : [255, 255, 255];
  const faint = [];
  const words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (words.nextNode()) {
    const element = words.currentNode.parentElement;
    if (!words.currentNode.data.trim() || !element.checkVisibility()) continue;
    const ground = behind(element);
    const [a, b] = [luminance(over(channels(getComputedStyle(element).color), ground)), luminance(ground)];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) faint.push(words.currentNode.data.trim() + " " + contrast.toFixed(2));
  }
  return faint;
})()
"""
