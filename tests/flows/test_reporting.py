"""The parts of a report as laws: axes, histograms, pictures, distances, the map."""

import base64
import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data.encoding import EncodedColumn
from data.snapshot import ingest
from flows.reporting import fidelity, following, latent_map, pictures
from flows.reporting.charts import Axis, binned, histogram, lines, number, path, steps
from flows.reporting.specimen import sample_rows

FINITE = st.floats(-1e6, 1e6, allow_nan=False)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (3.14159, "3.14"),
        (-102.61, "−103"),
        (12345.6, "12,346"),
        (0.00423, "0.00423"),
        (2.0, "2"),
        (100.0, "100"),
        (1.2e-7, "1.2e-07"),
        (math.nan, "–"),
        (-math.inf, "−∞"),
    ],
)
def test_a_number_is_short_and_keeps_three_digits(value: float, text: str) -> None:
    assert number(value) == text


@given(FINITE, st.floats(1e-3, 1e6), st.integers(2, 8))
def test_ticks_lie_on_the_axis_in_order_and_are_about_as_many_as_wanted(
    low: float, span: float, wanted: int
) -> None:
    places = [tick.at for tick in Axis(low, low + span).ticks(wanted)]

    assert places == sorted(places)
    assert all(0 <= place <= 100 for place in places)
    assert len(places) <= 2 * wanted + 1


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (-20.3, -19.4, ["−20.25", "−20", "−19.75", "−19.5"]),
        (0, 1, ["0", "0.25", "0.5", "0.75", "1"]),
        (12_000, 12_400, ["12,000", "12,100", "12,200", "12,300", "12,400"]),
        (-0.0004, 0.0004, ["−0.0004", "−0.0002", "0", "0.0002", "0.0004"]),
    ],
)
def test_a_tick_says_where_it_lies(low: float, high: float, texts: list[str]) -> None:
    assert [tick.text for tick in Axis(low, high).ticks(4)] == texts


@given(st.floats(1e-6, 1e6), st.floats(1.5, 1e9), st.sampled_from(["log", "log1p"]))
def test_ticks_of_a_logarithmic_axis_lie_on_it(low: float, factor: float, scale: Any) -> None:
    axis = Axis(0.0 if scale == "log1p" else low, low * factor + 1, scale)

    places = axis.place([axis.low, axis.high])

    np.testing.assert_allclose(places, [0, 1], atol=1e-9)
    assert all(0 <= tick.at <= 100 for tick in axis.ticks())


@given(st.lists(FINITE, min_size=1, max_size=50))
def test_every_value_is_in_one_bin(values: list[float]) -> None:
    edges = np.linspace(-10, 10, 8)

    assert binned(np.array(values), edges).sum() == pytest.approx(1)


@given(st.lists(FINITE, min_size=1, max_size=30))
def test_an_axis_holds_what_it_was_made_around(values: list[float]) -> None:
    places = Axis.around(values).place(values)

    assert ((places >= -1e-9) & (places <= 1 + 1e-9)).all()


def test_a_path_has_a_gap_where_a_value_is_not_finite() -> None:
    drawn = path(np.array([0, 0.5, 0.75, 1]), np.array([0, 1, np.nan, 0.5]))

    assert drawn == "M0 1000L500 0M1000 500"


def test_the_outline_of_a_histogram_begins_and_ends_on_the_base_line() -> None:
    assert steps([1.0, 0.5]) == "M0 1000L0 0L500 0L500 500L1000 500L1000 1000"


def test_the_first_steps_of_a_training_do_not_flatten_the_others() -> None:
    y = [-1000.0, *np.linspace(-110, -100, 20).tolist()]

    chart = lines("ELBO", "epoch", list(range(21)), {"valid": y})

    assert chart.note == "begins at −1,000, below the frame"
    assert all(tick.text.startswith("−1") and len(tick.text) == 4 for tick in chart.y_ticks)


def test_a_row_far_away_does_not_stretch_a_histogram() -> None:
    values = np.append(np.linspace(-20, -10, 200), 1e6)

    ticks = histogram("log p(x)", "nats", {"model": values}).x_ticks

    assert {tick.text for tick in ticks} <= {f"−{k}" for k in range(31)} | {"0"}


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_holds_its_images_unchanged(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 3, channels)).astype(np.float32)

    shown = pictures.sheet(images / np.float32(255), 2, "five", gap=1)

    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown.uri.split(",")[1]))))
    assert (shown.width, shown.height) == (7, 14)
    np.testing.assert_array_equal(pixels[5:9, 4:7, :channels], images[3])
    assert (pixels[..., -1] == 255).sum() == 5 * 4 * 3  # elsewhere it is transparent


def test_a_large_image_is_shrunk_in_proportion_and_keeps_its_mean() -> None:
    images = np.zeros((2, 120, 60, 1), np.float32)
    images[:, :60] = 1

    small = pictures.shrunk(images, 40)

    assert small.shape == (2, 40, 20, 1)
    assert small.mean() == pytest.approx(0.5, abs=0.01)


def column(kind: str, **settings: Any) -> EncodedColumn:
    """A column of a model's input, as a fitted preprocessor describes it."""
    given: dict[str, Any] = {"dtype": "double", "start": 0, "width": 1, **settings}
    return EncodedColumn(name="column", kind=kind, **given)


def entries(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return values.astype(np.float32).reshape(len(values), -1)


CASES = {
    "continuous": (column("continuous"), lambda r, n: r.normal(size=n)),
    "positive": (column("positive", log=True), lambda r, n: r.normal(size=n)),
    "count": (column("count", dtype="int64"), lambda r, n: r.negative_binomial(1, 0.01, n)),
    "categorical": (
        column("categorical", dtype="string", categories=tuple("abcdefghijklmno")),
        lambda r, n: r.integers(0, 15, n),
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_two_samples_of_one_distribution_differ_by_chance_and_no_more(kind: str) -> None:
    """See Note [Statistical tests]: 20 pairs; the mean of their distances has a standard error
    of about a twentieth of itself, and the bound is a quarter."""
    declared, draw = CASES[kind]
    random = np.random.default_rng(1)
    pairs = [
        fidelity.marginal(declared, entries(draw(random, 2000)), entries(draw(random, 2000)))
        for _ in range(20)
    ]

    distance = np.mean([pair.distance for pair in pairs])
    by_chance = np.mean([pair.by_chance for pair in pairs])

    assert distance == pytest.approx(by_chance, rel=0.25)


@pytest.mark.parametrize("kind", CASES)
def test_a_sample_does_not_differ_from_itself(kind: str) -> None:
    declared, draw = CASES[kind]
    cells = entries(draw(np.random.default_rng(2), 500))

    assert fidelity.marginal(declared, cells, cells).distance == 0


def test_samples_without_a_value_in_common_differ_wholly() -> None:
    low, high = np.full((50, 1), 0, np.float32), np.full((50, 1), 1, np.float32)
    declared = column("binary", dtype="string", categories=("no", "yes"))

    assert fidelity.marginal(declared, low, high).distance == 1


def test_whole_numbers_in_a_short_range_get_a_bin_each() -> None:
    ages = entries(np.random.default_rng(3).integers(20, 30, 1000))
    declared = column("continuous", dtype="int64")

    found = fidelity.marginal(declared, ages, ages)

    assert found.outlines is not None
    assert found.outlines[0].count("L") == 2 * 10 + 1


def test_a_latent_that_is_the_column_follows_it_wholly_and_noise_does_not() -> None:
    """The squared correlation of 4,000 independent pairs is about 1 / 4,000."""
    random = np.random.default_rng(4)
    cells = random.normal(size=4000)
    means = np.column_stack([3 - 2 * cells, random.normal(size=4000)])

    shares = following.squared_correlation(cells, means)

    assert shares[0] == pytest.approx(1)
    assert shares[1] < 0.005


def test_the_share_between_categories_is_that_of_an_analysis_of_variance() -> None:
    codes = np.repeat([0.0, 1.0, np.nan], [100, 300, 10])
    means = np.where(np.isnan(codes), 99, codes)[:, None] + np.tile([[-1.0], [1.0]], (205, 1))

    share = following.between_codes(codes, means)

    spread = 0.25 * 0.75  # of the group means; the spread within is 1
    assert share == pytest.approx(spread / (spread + 1))


def test_the_map_of_a_plane_keeps_its_distances_whichever_way_it_lies() -> None:
    random = np.random.default_rng(5)
    flat = random.normal(size=(40, 2)) * [3, 1]
    turned, _ = np.linalg.qr(random.normal(size=(6, 6)))
    mean = (flat @ turned[:2] + random.normal(size=6)).astype(np.float32)

    places, axes = latent_map.plane(mean, np.ones_like(mean))

    def distances(points: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.linalg.norm(points[:, None] - points[None], axis=-1)

    np.testing.assert_allclose(distances(places), distances(flat), atol=1e-4)
    assert axes[0].startswith("component 1: ")


def test_turning_the_latents_over_does_not_turn_the_map_over() -> None:
    mean = np.random.default_rng(6).normal(size=(30, 4)).astype(np.float32)

    first, _ = latent_map.plane(mean, np.ones_like(mean))
    again, _ = latent_map.plane(mean[::-1].copy(), np.ones_like(mean))

    np.testing.assert_allclose(first, again[::-1], atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        (["b", "a", None, "a"], ["a", "b", "missing"]),
        ([10, 9, 1], ["1", "9", "10"]),
        ([f"kind {k}" for k in range(30)] + ["kind 3"] * 5, 10),
        ([k / 10 for k in range(101)], ["0 to 2", "2 to 4", "4 to 6", "6 to 8", "8 to 10"]),
    ],
)
def test_every_row_has_one_of_at_most_ten_colors(labels: list[Any], order: Any) -> None:
    names, legend = latent_map.grouped(labels)

    assert len(names) == len(labels)
    assert set(names) == set(legend)
    assert (len(legend) if isinstance(order, int) else legend) == order


def test_a_column_that_is_bounded_below_is_shown_by_logarithm() -> None:
    declared = replace(column("positive", log=True), scale=2.0, shift=1.0)
    cells = entries(np.random.default_rng(7).normal(size=1000))

    ticks = fidelity.marginal(declared, cells, cells).ticks

    assert all(float(tick.text.replace(",", "")) > 0 for tick in ticks)


def test_rows_of_a_file_in_order_are_shown_mixed(tmp_path: Path) -> None:
    """Few rows, too: the pictures shown first are not all of one class."""
    rows = pa.table({"x": np.arange(400.0), "label": [f"c{k // 100}" for k in range(400)]})
    snapshot = ingest(rows, name="sorted", root=tmp_path, label="label")

    shown = sample_rows(snapshot, 1000)

    assert len(shown) == 400
    assert shown["split"].to_pylist()[0] == "test"
    assert len({*shown["label"].to_pylist()[:16]}) == 4
