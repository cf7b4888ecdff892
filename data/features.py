"""Published latent features: their format, how to find them, how to read them.

    <home>/features/<name>/model_version=v<k>/publication=<id>/manifest.json
                                                              data/part-*.parquet
    <home>/features/<name>/latest.json

A features table has one row per input row, in the snapshot's order. Its columns MUST be the
key, `split`, the label and carried columns, `z_mean_*` and `z_stddev_*` as float32 (layout
"wide"; as `z_mean` and `z_stddev` of fixed_size_list<float32> in layout "vector"), then those
asked for (`z_sample_*`, `elbo_nats`), `model_version`, and `event_timestamp` (UTC) where the
data set has a time. Two model versions never share a publication: their spaces differ.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.bucket import S3Path, opened
from data.cells import matrix
from data.contract import ROW_ID, Contract, UnknownNameError, near_miss
from data.publication import (
    FormatError,
    check_format,
    locked,
    read_manifest,
    replace_file,
    safe_name,
    verify_parts,
)
from data.working_copy import place_of

FORMAT, VERSION = "latent-features", 1
LATEST_FORMAT = "latent-features/latest"
ASKED_FOR, KNOWN_FROM, PLACE = "__asked_for", "__known_from", "__place"  # while joining

Floats = npt.NDArray[np.float32]


class NotPublishedError(UnknownNameError):
    """There are no such features; the message says what there is."""


def feature_names(prefix: str, latents: int) -> list[str]:
    """Return the names of the columns of one feature in layout "wide"."""
    return [f"{prefix}_{index:03d}" for index in range(latents)]


def features_table(
    rows: pa.Table,
    contract: Contract,
    mean: Floats,
    stddev: Floats,
    *,
    model_version: int,
    layout: str = "wide",
    samples: Floats | None = None,
    elbo_nats: Floats | None = None,
) -> pa.Table:
    """Lay out the features of `rows` (of a snapshot), row for row.

    Args:
        rows: the snapshot's rows; what travels along is taken from here.
        contract: says which columns travel along.
        mean: the posterior mean, rows × latents.
        stddev: the posterior standard deviation, rows × latents.
        model_version: the version that made them.
        layout: "wide" (one column per latent) or "vector" (one column of lists).
        samples: draws from the posterior, draws × rows × latents.
        elbo_nats: the bound of each row.
    """
    features = {"z_mean": mean, "z_stddev": stddev}
    for draw, sample in enumerate(() if samples is None else samples):
        features[f"z_sample_{draw}"] = sample
    labels = () if contract.label is None else (contract.label,)
    kept = (contract.key or ROW_ID, "split", *labels, *contract.carried)
    table = {name: rows[name] for name in kept}
    for name, values in features.items():
        table |= _laid_out(name, np.asarray(values, np.float32), layout)
    if elbo_nats is not None:
        table["elbo_nats"] = pa.array(elbo_nats, pa.float32())
    version = pa.DictionaryArray.from_arrays(
        np.zeros(len(rows), np.int8), [f"v{model_version}"]
    )
    table["model_version"] = version
    if contract.timestamp is not None:
        table["event_timestamp"] = rows[contract.timestamp]
    return pa.table(table)


def _laid_out(name: str, values: Floats, layout: str) -> dict[str, pa.Array]:
    if layout == "wide":
        columns = feature_names(name, values.shape[1])
        return {column: pa.array(values[:, i]) for i, column in enumerate(columns)}
    if layout == "vector":
        flat = pa.array(np.ascontiguousarray(values).ravel())
        return {name: pa.FixedSizeListArray.from_arrays(flat, values.shape[1])}
    raise ValueError(near_miss("layout", layout, ("wide", "vector")))


@dataclass(frozen=True)
class Features:
    """One publication, opened for reading. Every page is checked against its checksum."""

    path: Any  # a folder of this machine, or an S3Path
    manifest: Mapping[str, Any] = field(repr=False)

    @property
    def latents(self) -> int:
        """The number of coordinates of the latent space."""
        return int(self.manifest["latents"])

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self.manifest["rows"])

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns and their types.

        Raises:
            FormatError: the first file is damaged.
        """
        with self._open(self.manifest["parts"][0]) as file:
            return file.schema_arrow.remove_metadata()

    def batches(
        self,
        rows: int = 65_536,
        *,
        columns: Sequence[str] | None = None,
        split: str | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Yield rows in order, at most `rows` at a time; all columns or some, all rows or a split.

        Raises:
            UnknownNameError: a column does not exist; offers the near miss.
            FormatError: a file is damaged.
        """
        for name in columns or ():
            self._field(name)
        read = None if columns is None else [*columns, *({"split"} - set(columns))]
        for part in self.manifest["parts"]:
            with self._open(part) as file:
                for batch in file.iter_batches(batch_size=rows, columns=read):
                    yield _chosen(batch, columns, split)

    def to_arrow(
        self, columns: Sequence[str] | None = None, *, split: str | None = None
    ) -> pa.Table:
        """Read everything at once as an Arrow table."""
        wanted = self.schema.names if columns is None else columns
        schema = pa.schema([self._field(name) for name in wanted])
        return pa.Table.from_batches(self.batches(columns=wanted, split=split), schema)

    def to_pandas(
        self, columns: Sequence[str] | None = None, *, split: str | None = None
    ) -> pd.DataFrame:
        """Read everything at once as a pandas frame."""
        return self.to_arrow(columns, split=split).to_pandas()

    def to_numpy(self, feature: str = "z_mean", *, split: str | None = None) -> Floats:
        """Return one feature as rows × latents, whatever the layout."""
        if feature in self.schema.names:
            vectors = self.to_arrow([feature], split=split)[feature].combine_chunks()
            return matrix(vectors)
        wide = self.to_arrow(feature_names(feature, self.latents), split=split)
        return np.column_stack([column.to_numpy() for column in wide.columns])

    def join(self, frame: pd.DataFrame, *, on: str, as_of: str | None = None) -> pd.DataFrame:
        """Join features to a frame by key; rows of `frame` without features are left out.

        With `as_of`, a column of times of `frame`, each row gets the features of the latest
        event that was not later than it (none from its future), and `on` may be any column
        that tells entities apart. Times that name no zone are read as UTC.

        Raises:
            pandas.errors.MergeError: a key occurs twice in `frame`, without `as_of`.
            UnknownNameError: the features have no `event_timestamp`, with `as_of`.
        """
        extra = [name for name in self.schema.names if name == on or name not in frame.columns]
        if as_of is None:
            return frame.merge(self.to_pandas(extra), on=on, how="inner", validate="one_to_one")
        known = self.to_pandas([*dict.fromkeys([*extra, "event_timestamp"])])
        known[KNOWN_FROM] = known["event_timestamp"]
        wanted = frame.copy(deep=False)
        wanted[ASKED_FOR] = pd.to_datetime(frame[as_of], utc=True).astype(
            known[KNOWN_FROM].dtype
        )
        wanted[PLACE] = np.arange(len(frame))
        joined = pd.merge_asof(
            wanted.dropna(subset=ASKED_FOR).sort_values(ASKED_FOR),
            known[[*extra, KNOWN_FROM]].sort_values(KNOWN_FROM),
            left_on=ASKED_FOR,
            right_on=KNOWN_FROM,
            by=on,
        )
        found = joined.dropna(subset=KNOWN_FROM).sort_values(PLACE, ignore_index=True)
        return found.drop(columns=[ASKED_FOR, KNOWN_FROM, PLACE])

    def _field(self, name: str) -> pa.Field:
        if name not in self.schema.names:
            raise UnknownNameError(near_miss("column", name, self.schema.names))
        return self.schema.field(name)

    @contextmanager
    def _open(self, part: Mapping[str, Any]) -> Iterator[pq.ParquetFile]:
        path = self.path / part["path"]
        local = isinstance(path, Path)
        try:
            with pq.ParquetFile(
                path if local else path.open(),
                page_checksum_verification=True,
                pre_buffer=not local,
            ) as file:
                yield file
        except (pa.ArrowException, OSError) as error:
            raise FormatError(f"{path} is damaged: {error}") from None


def open_features(
    name: str,
    *,
    home: str | Path = "latents-home",
    model_version: int | None = None,
    publication: str | None = None,
    verify: bool = False,
) -> Features:
    """Open the champion's latest publication of a data set, or the one that is pinned.

    `home` is a folder or `s3://bucket/prefix`, of which only what is asked for is read.
    `verify` compares every file with its sha256 first.

    Raises:
        NotPublishedError: there is none; says what there is.
        FormatError: it is damaged, or a newer version wrote it.
        BucketError: the object store cannot be reached.
    """
    root = opened(home) / "features"
    latest = latest_of(root, _possible(name))
    if publication is None:
        publication = _latest_publication(name, latest, model_version, root)
    publication = _possible(publication)
    versions = f"model_version=v{model_version}" if model_version else "model_version=*"
    pattern = f"{versions}/publication={publication}/manifest.json"
    found = [manifest.parent for manifest in _sorted(root / name, pattern)]
    if not found:
        known = [found.publication for found in list_publications(home, name)]
        raise NotPublishedError(near_miss(f"publication of {name!r}", publication, known))
    features = Features(found[0], read_manifest(found[0], format=FORMAT, version=VERSION))
    if verify:
        verify_parts(features.path, features.manifest)
    return features


@dataclass(frozen=True)
class Publication:
    """One publication, as a list shows it."""

    name: str
    model_version: int
    publication: str
    rows: int
    path: Any  # a folder of this machine, or an S3Path
    latest: bool  # what `open_features(name)` opens


def list_publications(home: str | Path, name: str | None = None) -> list[Publication]:
    """List what is published in a home, by data set, then model version."""
    root = opened(home) / "features"
    found = []
    pattern = f"{name or '*'}/model_version=v*/publication=*/manifest.json"
    for path in _sorted(root, pattern):
        folder = path.parent
        manifest = read_manifest(folder, format=FORMAT, version=VERSION)
        dataset, publication = folder.parent.parent.name, folder.name.partition("=")[2]
        version = int(folder.parent.name.partition("=v")[2])
        champion = latest_of(root, dataset)["champion"]
        is_latest = champion == {"model_version": version, "publication": publication}
        found.append(
            Publication(dataset, version, publication, manifest["rows"], folder, is_latest)
        )
    return sorted(found, key=lambda each: (each.name, each.model_version, each.publication))


def latest_of(root: Path | S3Path, name: str) -> dict[str, Any]:
    """Read which publication is current: the champion's, and that of each model version.

    Raises:
        FormatError: the pointer file is not ours, or a newer version wrote it.
    """
    path = _pointer(root, name)
    try:
        return _parsed(path.read_bytes(), path)
    except FileNotFoundError:
        return _parsed(None, path)


def write_latest(
    root: Path, name: str, *, version: int, publication: str, champion: bool
) -> None:
    """Point a model version at a publication; with `champion`, point readers at it too."""

    def moved(content: bytes | None) -> bytes:
        latest = _parsed(content, path)
        latest["versions"] = {**latest["versions"], str(version): publication}
        if champion:
            latest["champion"] = {"model_version": version, "publication": publication}
        document = {"format": LATEST_FORMAT, "format_version": VERSION, **latest}
        return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()

    path = _pointer(root, name)
    if isinstance(path, S3Path):
        path.change(moved)
        return
    with locked(path.with_name(".latest.lock")):
        replace_file(path, moved(path.read_bytes() if path.exists() else None))


def _possible(name: str) -> str:
    """Return a name that may be a folder's: no other is published, or leads anywhere."""
    try:
        return safe_name(name)
    except ValueError as error:
        raise NotPublishedError(f"there are no features of {name!r}: {error}") from None


def _sorted(root: Path | S3Path, pattern: str) -> list[Path | S3Path]:
    return sorted(root.glob(pattern), key=str)


def _pointer(root: Path | S3Path, name: str) -> Path | S3Path:
    """The file that moves: where a folder stands for a bucket, the one in the bucket."""
    return (place_of(root) if isinstance(root, Path) else root) / name / "latest.json"


def _parsed(content: bytes | None, path: Path | S3Path) -> dict[str, Any]:
    if content is None:
        return {"champion": None, "versions": {}}
    document = json.loads(content)
    check_format(document, path, format=LATEST_FORMAT, version=VERSION)
    return {"champion": document["champion"], "versions": document["versions"]}


def _latest_publication(
    name: str, latest: Mapping[str, Any], version: int | None, root: Path | S3Path
) -> str:
    if not latest["versions"]:
        known = [path.parent.name for path in _sorted(root, "*/latest.json")]
        near = near_miss("data set", name, known) if known else "nothing is published there"
        raise NotPublishedError(f"no features of {name!r} in {root}: {near}")
    if version is not None:
        if str(version) not in latest["versions"]:
            known = sorted(latest["versions"], key=int)
            raise NotPublishedError(
                f"no features of {name!r} by model version {version}; "
                f"published: {', '.join(known)}"
            )
        return str(latest["versions"][str(version)])
    if latest["champion"] is None:
        raise NotPublishedError(
            f"no champion has published features of {name!r}; "
            f"pin one with model_version=, of {', '.join(sorted(latest['versions'], key=int))}"
        )
    return str(latest["champion"]["publication"])


def _chosen(
    batch: pa.RecordBatch, columns: Sequence[str] | None, split: str | None
) -> pa.RecordBatch:
    if split is not None:
        batch = batch.filter(pc.equal(batch["split"], split))
    return batch if columns is None else batch.select(list(columns))
