"""Features judged as features: what can be read from them, and whether they would come back.

Probes are small models of the label, fitted to the features of training rows and scored on test
rows, beside the same models on PCA of the same width and on the model's own inputs: features
that lose to PCA are not worth a network. Everything here is NumPy and scikit-learn, bounded in
rows, and deterministic.

Each representation is centred and divided by one number, not column by column: latents, principal
components and encoded columns come in units of their own, and to stretch a latent that is not
in use to the width of the others would add noise to every distance. What one penalty would mean
differs between them all the same, so each gets its own, chosen on training rows.
"""

import math
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import adjusted_mutual_info_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

Split = tuple[NDArray[Any], NDArray[Any]]  # of training rows, of test rows

TRAIN_ROWS, TEST_ROWS = 10_000, 5_000  # evenly spaced ones of more; MNIST's pixels: 4 s
MAX_CLASSES = 100  # numbers with more distinct values are a quantity, words an identifier
ROWS_OF_CLASS = 3  # on average; of fewer, numbers are a quantity
NEIGHBORS = 10
PENALTIES = (0.1, 1.0, 10.0, 100.0)  # of logistic regression, on weights of scaled features
HELD_OUT = 5  # every fifth training row chooses the penalty
ITERATIONS = 200
STARTS, RESAMPLES = 3, 30  # of k-means; of test rows, for the error of what clusters tell


@dataclass(frozen=True)
class Probe:
    """One kind of probe on three representations of the same rows; higher is better.

    `accuracy` is the share of test rows whose class was found; `r2` the share of the test rows'
    variance that was explained (below 0: worse than their mean); `ami` the adjusted mutual
    information of classes and clusters (1: one is the other, 0: what chance brings).
    """

    name: str  # linear_accuracy, knn_accuracy, clusters_ami, linear_r2, knn_r2
    latents: float
    latents_stderr: float
    pca: float  # principal components, as many as there are latents
    pca_stderr: float
    inputs: float  # what the encoder sees
    inputs_stderr: float
    chance: float  # the commonest class of the training rows, or their mean; of clusters 0
    train_rows: int
    test_rows: int

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for a record."""
        return asdict(self)


@dataclass(frozen=True)
class Stability:
    """How much of one model's features another model's features of the same rows contain.

    Latent spaces of two trainings differ by rotation at least; what matters is whether one can
    be read from the other by a linear map.
    """

    first_from_second: float  # share of the test rows' variance, over all latents (R²)
    first_from_second_stderr: float
    second_from_first: float
    second_from_first_stderr: float
    canonical: tuple[float, ...]  # correlations on test rows, largest in training first
    train_rows: int
    test_rows: int

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for a record."""
        return asdict(self)


def probe_features(*, latents: Split, inputs: Split, labels: Split) -> list[Probe]:
    """Probe the label linearly, by the ten nearest neighbours, and classes by clusters.

    The label is a class, or a quantity where it is numbers, and some are no whole ones, or
    more than 100 are different, or more than one in three.
    Rows without a label (None, nan) are left out; `train_rows` and `test_rows` count the rest.

    Returns:
        One probe of each kind; none where the label cannot be probed: one class only, no
        labelled rows, or words that are nearly all different.
    """
    labelled = [np.flatnonzero(_present(part)) for part in labels]
    chosen = [
        _evenly(rows, limit)
        for rows, limit in zip(labelled, (TRAIN_ROWS, TEST_ROWS), strict=True)
    ]
    y = [np.array(part[rows].tolist()) for part, rows in zip(labels, chosen, strict=True)]
    if not (len(y[0]) and len(y[1])) or len(np.unique(y[0])) < 2:
        return []
    is_number = np.issubdtype(y[0].dtype, np.number)
    if not is_number and len(np.unique(y[0])) > MAX_CLASSES:
        return []
    quantity = is_number and _is_quantity(np.concatenate(y))
    x = {"latents": _taken(latents, chosen), "inputs": _taken(inputs, chosen)}
    x["pca"] = _principal(x["inputs"], latents[0].shape[1])
    if quantity:
        by_mean = _r2(y[1], np.full(len(y[1]), y[0].mean()))[0]
        fits = {"linear_r2": (_ridge, by_mean), "knn_r2": (_knn_quantity, by_mean)}
    else:
        values, counts = np.unique(y[0], return_counts=True)
        commonest = float((y[1] == values[counts.argmax()]).mean())
        fits = {
            "linear_accuracy": (_logistic, commonest),
            "knn_accuracy": (_knn_class, commonest),
            "clusters_ami": (_clusters, 0.0),
        }
    probes = []
    for name, (fit, chance) in fits.items():
        score = {k: fit(*parts, *y) for k, parts in x.items()}
        probes.append(
            Probe(
                name,
                *(*score["latents"], *score["pca"], *score["inputs"]),
                chance=chance,
                train_rows=len(y[0]),
                test_rows=len(y[1]),
            )
        )
    return probes


def feature_stability(first: Split, second: Split) -> Stability:
    """Compare the features of the same rows under two models, of any two widths.

    Maps and canonical directions are fitted to training rows and judged on test rows.

    Raises:
        ValueError: the two hold different numbers of rows.
    """
    for one, other in zip(first, second, strict=True):
        if len(one) != len(other):
            raise ValueError(
                f"the two models' features are of {len(one)} and {len(other)} rows; compare "
                f"features of the same rows in the same order"
            )
    chosen = [
        _evenly(np.arange(len(part)), limit)
        for part, limit in zip(first, (TRAIN_ROWS, TEST_ROWS), strict=True)
    ]
    a, b = _taken(first, chosen), _taken(second, chosen)
    return Stability(
        *_ridge(*b, *a),
        *_ridge(*a, *b),
        canonical=_canonical(a, b),
        train_rows=len(a[0]),
        test_rows=len(a[1]),
    )


def _is_quantity(y: NDArray[Any]) -> bool:
    """Whether numbers name no classes."""
    distinct = len(np.unique(y))
    return bool((y % 1).any()) or distinct > min(MAX_CLASSES, len(y) / ROWS_OF_CLASS)


def _present(labels: NDArray[Any]) -> NDArray[np.bool_]:
    return np.array([value is not None and value == value for value in labels.tolist()], bool)


def _evenly(rows: NDArray[np.intp], limit: int) -> NDArray[np.intp]:
    """At most `limit` of `rows`, evenly spaced."""
    if len(rows) <= limit:
        return rows
    return rows[np.arange(limit) * len(rows) // limit]


def _taken(parts: Split, chosen: list[NDArray[np.intp]]) -> Split:
    train, test = (
        part[rows].astype(np.float32) for part, rows in zip(parts, chosen, strict=True)
    )
    return _scaled(train, test)


def _scaled(train: NDArray[Any], test: NDArray[Any]) -> Split:
    """Centre by the training rows; divide by the square root of their mean variance."""
    mean = train.mean(0)
    spread = math.sqrt(train.var(0).mean()) or 1.0
    return (train - mean) / spread, (test - mean) / spread


def _principal(inputs: Split, width: int) -> Split:
    train, test = inputs
    pca = PCA(min(width, *train.shape), random_state=0).fit(train)
    return _scaled(pca.transform(train), pca.transform(test))


def _logistic(
    x: NDArray[Any], x_test: NDArray[Any], y: NDArray[Any], y_test: NDArray[Any]
) -> tuple[float, float]:
    """Each representation has the penalty that suits it: 784 pixels want more than 4 latents."""

    def fitted(rows: NDArray[np.bool_], penalty: float) -> LogisticRegression:
        model = LogisticRegression(C=1 / penalty, max_iter=ITERATIONS, tol=1e-3)
        return model.fit(x[rows], y[rows])

    held_out = np.arange(len(x)) % HELD_OUT == 0
    with warnings.catch_warnings():
        # A score is measured on rows that are held out, converged or not.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = {
            penalty: fitted(~held_out, penalty).score(x[held_out], y[held_out])
            for penalty in PENALTIES
            if len(np.unique(y[~held_out])) > 1
        }
        penalty = max(
            found, key=lambda penalty: (found[penalty], penalty), default=PENALTIES[-1]
        )
        model = fitted(np.ones(len(x), bool), penalty)
    return _accuracy(y_test, model.predict(x_test))


def _knn_class(
    x: NDArray[Any], x_test: NDArray[Any], y: NDArray[Any], y_test: NDArray[Any]
) -> tuple[float, float]:
    model = KNeighborsClassifier(min(NEIGHBORS, len(x)), algorithm="brute").fit(x, y)
    return _accuracy(y_test, model.predict(x_test))


def _clusters(
    x: NDArray[Any], x_test: NDArray[Any], y: NDArray[Any], y_test: NDArray[Any]
) -> tuple[float, float]:
    """As many clusters of training rows as they have classes, found without the label (k-means).

    Test rows go to the nearest. Adjusted mutual information: Vinh, Epps & Bailey (2010); its
    standard error is that of resampled test rows.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters
        model = KMeans(len(np.unique(y)), n_init=STARTS, random_state=0).fit(x)
    found = model.predict(x_test)
    draws = np.random.default_rng(0).integers(len(y_test), size=(RESAMPLES, len(y_test)))
    spread = np.std([adjusted_mutual_info_score(y_test[k], found[k]) for k in draws], ddof=1)
    return float(adjusted_mutual_info_score(y_test, found)), float(spread)


def _ridge(
    x: NDArray[Any], x_test: NDArray[Any], y: NDArray[Any], y_test: NDArray[Any]
) -> tuple[float, float]:
    predicted = Ridge(alpha=1.0).fit(x, y).predict(x_test)
    return _r2(y_test, predicted.reshape(y_test.shape))  # one output comes back flat


def _knn_quantity(
    x: NDArray[Any], x_test: NDArray[Any], y: NDArray[Any], y_test: NDArray[Any]
) -> tuple[float, float]:
    model = KNeighborsRegressor(min(NEIGHBORS, len(x)), algorithm="brute").fit(x, y)
    return _r2(y_test, model.predict(x_test))


def _accuracy(y: NDArray[Any], predicted: NDArray[Any]) -> tuple[float, float]:
    """Share of hits and its standard error."""
    share = float((y == predicted).mean())
    return share, math.sqrt(share * (1 - share) / len(y))


def _r2(y: NDArray[Any], predicted: NDArray[Any]) -> tuple[float, float]:
    """1 - squared error / variance, over all outputs, and its standard error.

    A ratio of means a / b of rows has the variance of (a_i - ratio b_i) / b over rows.
    nan where the test rows have no variance.
    """
    error = np.square(y - predicted).reshape(len(y), -1).sum(1)
    spread = np.square(y - y.mean(0)).reshape(len(y), -1).sum(1)
    if not spread.any():
        return math.nan, math.nan
    ratio = error.mean() / spread.mean()
    residual = (error - ratio * spread) / spread.mean()
    return float(1 - ratio), float(residual.std() / math.sqrt(len(y)))


def _canonical(first: Split, second: Split) -> tuple[float, ...]:
    """Correlations on test rows of the canonical variates of training rows (Hotelling 1936)."""
    maps = []
    for train, _ in (first, second):
        _, lengths, directions = np.linalg.svd(train, full_matrices=False)
        used = lengths > 1e-3 * lengths[0]  # a constant latent has no direction
        maps.append(directions[used].T / lengths[used])
    left, _, right = np.linalg.svd((first[0] @ maps[0]).T @ (second[0] @ maps[1]))
    pairs = min(left.shape[0], right.shape[0])
    one = first[1] @ maps[0] @ left[:, :pairs]
    other = second[1] @ maps[1] @ right[:pairs].T
    one, other = one - one.mean(0), other - other.mean(0)
    lengths = np.linalg.norm(one, axis=0) * np.linalg.norm(other, axis=0)
    return tuple(((one * other).sum(0) / np.maximum(lengths, 1e-12)).tolist())
