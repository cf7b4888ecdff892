"""Probes find what was put in, and nothing where nothing was."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flows import probes
from flows.probes import Split, feature_stability, probe_features


def halves(x: NDArray[Any]) -> Split:
    return x[: len(x) // 2], x[len(x) // 2 :]


def numbers(*shape: int, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).normal(size=shape)


def test_a_linear_label_is_read_from_features_that_hold_it_and_not_from_noise() -> None:
    x, noise = numbers(4000, 3), numbers(4000, 30, seed=1)
    label = np.where(x[:, 0] > 0, "yes", "no")

    linear, knn, _ = probe_features(
        latents=halves(x), inputs=halves(noise), labels=halves(label)
    )
    assert (linear.name, knn.name) == ("linear_accuracy", "knn_accuracy")
    assert linear.latents > 0.97
    assert knn.latents > 0.93
    for blind in (linear.inputs, linear.pca, knn.inputs, knn.pca):  # z = 4 of 2,000 coins
        assert abs(blind - 0.5) < 4 * 0.5 / math.sqrt(2000)
    assert (linear.train_rows, linear.test_rows) == (2000, 2000)


def test_a_label_in_a_narrow_direction_is_found_all_the_same() -> None:
    """A column a twentieth as wide as its neighbour: a penalty of 10 hides it, and suits others."""
    x = numbers(400, 2)
    label = x[:, 0] > 0

    linear, _, _ = probe_features(
        latents=halves(x * np.array([0.05, 1.0])), inputs=halves(x), labels=halves(label)
    )
    assert linear.latents > 0.9
    assert linear.inputs > 0.95


def test_a_ring_is_read_by_neighbours_alone() -> None:
    x = numbers(4000, 2)
    ring = (np.square(x).sum(1) > 1.4).astype(int)

    linear, knn, _ = probe_features(latents=halves(x), inputs=halves(x), labels=halves(ring))
    assert linear.latents < 0.6
    assert knn.latents > 0.95


def test_clusters_that_nobody_named_are_classes_where_they_are_apart() -> None:
    """Three heaps ten deviations apart; in noise, what chance brings: none, z = 3.3."""
    places = np.arange(3000) % 3
    heaps, noise = numbers(3000, 2) + 10 * np.eye(3)[places, :2], numbers(3000, 4, seed=1)

    *_, clusters = probe_features(
        latents=halves(heaps), inputs=halves(noise), labels=halves(np.array([*"abc"])[places])
    )
    assert (clusters.name, clusters.chance) == ("clusters_ami", 0)
    assert clusters.latents == pytest.approx(1, abs=1e-9)
    assert clusters.latents_stderr == pytest.approx(0, abs=1e-9)
    assert abs(clusters.inputs) < 3.3 * clusters.inputs_stderr


def test_the_error_of_what_clusters_tell_is_the_spread_over_test_sets() -> None:
    """One column, two halves that overlap: 100 test sets of 300 rows; 30 resamples know 13 %."""
    y = np.arange(31_000) % 2
    x = numbers(31_000, 1) + 2.0 * y[:, None]
    scores = [
        probes._clusters(x[:1000], x[k : k + 300], y[:1000], y[k : k + 300])
        for k in range(1000, 31_000, 300)
    ]

    spread = np.std([score for score, _ in scores])
    assert np.mean([stderr for _, stderr in scores]) == pytest.approx(spread, rel=0.25)


def test_more_classes_than_distinct_rows_are_no_error() -> None:
    x = np.tile([[0.0], [1.0]], (30, 1))

    *_, clusters = probe_features(
        latents=halves(x), inputs=halves(x), labels=halves(np.arange(60) % 5)
    )
    assert clusters.latents < 0.01  # every class has as many of one cluster as of the other


def test_a_quantity_has_the_share_of_variance_that_was_put_in() -> None:
    """y = x + noise of half its variance: R² = 2/3. Standard error from 2,000 rows, z = 3.3."""
    x = numbers(4000, 1)
    y = x[:, 0] + numbers(4000, seed=1) * math.sqrt(0.5)

    linear, knn = probe_features(latents=halves(x), inputs=halves(x), labels=halves(y))
    assert (linear.name, knn.name) == ("linear_r2", "knn_r2")
    assert abs(linear.latents - 2 / 3) < 3.3 * linear.latents_stderr
    assert 0.005 < linear.latents_stderr < 0.02
    assert 0.5 < knn.latents < linear.latents
    assert abs(linear.chance) < 0.01


def test_the_standard_error_is_the_spread_over_test_sets() -> None:
    """100 test sets of 200 rows know a spread to 7 %; z = 3.3."""
    x, noise = numbers(20_000, seed=2), numbers(20_000, seed=3)
    scores = [
        probes._r2((x + noise)[k : k + 200], 0.2 * x[k : k + 200])
        for k in range(0, 20_000, 200)
    ]

    spread = np.std([score for score, _ in scores])
    assert np.mean([stderr for _, stderr in scores]) == pytest.approx(spread, rel=0.25)
    share, stderr = probes._accuracy(np.arange(4), np.array([0, 1, 2, 9]))
    assert share == 0.75
    assert stderr == pytest.approx(math.sqrt(0.75 * 0.25 / 4))


def test_principal_components_are_as_many_as_the_latents() -> None:
    """The label hides in the last of three columns, the narrowest: PCA to two drops it."""
    inputs = numbers(2000, 3) * np.array([3.0, 2.0, 1.0])
    label = inputs[:, 2] > 0

    linear, _, _ = probe_features(
        latents=halves(inputs[:, 1:]), inputs=halves(inputs), labels=halves(label)
    )
    assert linear.inputs > 0.95
    assert linear.latents > 0.95
    assert linear.pca < 0.6


def test_a_latent_that_is_not_in_use_does_not_disturb_neighbours() -> None:
    x = np.concatenate([numbers(2000, 1), 1e-3 * numbers(2000, 19, seed=1)], 1)

    _, knn, _ = probe_features(latents=halves(x), inputs=halves(x), labels=halves(x[:, 0] > 0))
    assert knn.latents > 0.97


def test_rows_without_a_label_are_left_out_and_counted_out() -> None:
    x = numbers(400, 2)
    label = np.where(x[:, 0] > 0, "yes", "no").astype(object)
    label[::4] = None

    linear, _, _ = probe_features(latents=halves(x), inputs=halves(x), labels=halves(label))
    assert (linear.train_rows, linear.test_rows) == (150, 150)
    number = np.arange(400.0)
    number[::4] = math.nan
    linear, _ = probe_features(latents=halves(x), inputs=halves(x), labels=halves(number))
    assert (linear.name, linear.train_rows) == ("linear_r2", 150)


@pytest.mark.parametrize(
    "label",
    [
        np.zeros(400),
        np.full(400, None),
        np.array([f"person {k}" for k in range(400)]),
        np.concatenate([np.zeros(200), np.full(200, np.nan)]),
    ],
    ids=["one class", "no labels", "names", "no labelled test row"],
)
def test_a_label_that_cannot_be_probed_has_no_probe(label: NDArray[Any]) -> None:
    x = numbers(400, 2)

    assert probe_features(latents=halves(x), inputs=halves(x), labels=halves(label)) == []


@pytest.mark.parametrize(
    "label",
    [
        np.tile([0.5, 1.25, 7.0], 100),
        np.arange(300) // 2,
        np.tile(np.arange(40), 8)[:300].astype(float) + 0.5,
    ],
    ids=["few numbers with a fraction", "integers, many for the rows", "both"],
)
def test_numbers_that_name_no_classes_are_a_quantity(label: NDArray[Any]) -> None:
    """Such as the label of a table of few rows: no classifier can be asked for 1.25."""
    x = np.random.default_rng(0).normal(size=(300, 3))

    names = [
        probe.name
        for probe in probe_features(latents=halves(x), inputs=halves(x), labels=halves(label))
    ]
    assert names == ["linear_r2", "knn_r2"]


@pytest.mark.parametrize("label", [np.tile([-1.0, 1.0], 150), np.tile(np.arange(10), 30)])
def test_few_whole_numbers_are_classes(label: NDArray[Any]) -> None:
    x = np.random.default_rng(0).normal(size=(300, 3))

    linear, _, clusters = probe_features(
        latents=halves(x), inputs=halves(x), labels=halves(label)
    )
    assert (linear.name, clusters.name) == ("linear_accuracy", "clusters_ami")


def test_the_work_is_bounded_and_the_answer_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "TRAIN_ROWS", 300)
    monkeypatch.setattr(probes, "TEST_ROWS", 100)
    x = numbers(2000, 40)
    x = np.concatenate([x[x[:, 0] > 0.5], x[x[:, 0] <= 0.5]])  # the first rows are one class
    parts = {
        name: (value[::2], value[1::2])
        for name, value in {"latents": x[:, :5], "inputs": x, "labels": x[:, 0] > 0.5}.items()
    }

    first = probe_features(**parts)
    assert (first[0].train_rows, first[0].test_rows) == (300, 100)
    assert first[0].chance == pytest.approx(0.69, abs=0.02)
    assert probe_features(**parts) == first


def test_a_rotation_loses_nothing() -> None:
    x = numbers(2000, 4)
    rotation, _ = np.linalg.qr(numbers(4, 4, seed=1))
    found = feature_stability(halves(x), halves(3 * x @ rotation + 1))

    assert found.first_from_second > 0.999
    assert found.second_from_first > 0.999
    assert min(found.canonical) > 0.999


def test_features_that_share_one_direction_share_one_correlation() -> None:
    """Each is that direction and one of its own: R² 1/2 both ways, correlations 1 and 0."""
    shared, own = numbers(4000, 1), numbers(4000, 2, seed=1)
    one = np.concatenate([shared, own[:, :1]], 1)
    other = np.concatenate([own[:, 1:], -2 * shared], 1) / np.array([1.0, 2.0])
    found = feature_stability(halves(one), halves(other))

    assert found.first_from_second == pytest.approx(0.5, abs=0.05)
    assert found.second_from_first == pytest.approx(0.5, abs=0.05)
    assert found.canonical[0] > 0.999
    assert abs(found.canonical[1]) < 4 / math.sqrt(2000)


def test_features_that_hold_more_predict_those_that_hold_less() -> None:
    x = numbers(4000, 2)
    found = feature_stability(halves(x[:, :1]), halves(x))

    assert found.first_from_second > 0.999
    assert found.second_from_first == pytest.approx(0.5, abs=0.05)


def test_unrelated_features_share_nothing_on_rows_that_fitted_no_direction() -> None:
    """40 rows and 15 latents correlate perfectly in training; test rows say what is true."""
    found = feature_stability(
        (numbers(40, 15), numbers(1000, 15, seed=1)),
        (numbers(40, 15, seed=2), numbers(1000, 15, seed=3)),
    )

    assert max(map(abs, found.canonical)) < 4 / math.sqrt(1000)
    assert found.first_from_second < 0


def test_a_collapsed_latent_has_no_direction() -> None:
    x = np.concatenate([numbers(500, 2), np.full((500, 1), 0.25)], 1)

    assert len(feature_stability(halves(x), halves(x)).canonical) == 2


def test_features_of_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="of 10 and 9 rows; compare features of the same rows"):
        feature_stability((numbers(10, 2), numbers(5, 2)), (numbers(9, 2), numbers(5, 2)))
