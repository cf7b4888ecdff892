from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pyarrow as pa
import pytest

import data.annotated
from data.formats import SourceError
from data.inference import infer_contract
from data.preprocessing import fit_preprocessor
from data.snapshot import ingest
from data.sources import open_source
from data.survey import survey

COUNTS = np.random.default_rng(0).poisson(0.5, (60, 7))
COUNTS[:, 6] = 0  # a gene that is never seen counts too


def sparse(file: Any, name: str, matrix: np.ndarray, encoding: str = "csr_matrix") -> None:
    group = file.create_group(name)
    group.attrs["encoding-type"] = encoding
    group.attrs["shape"] = matrix.shape
    rows, columns = np.nonzero(matrix)
    group["data"] = matrix[rows, columns].astype(np.float32)
    group["indices"] = columns.astype(np.int32)
    group["indptr"] = np.searchsorted(rows, np.arange(len(matrix) + 1))


def annotated(path: Path, **matrices: np.ndarray) -> Path:
    """What anndata writes: a matrix, notes on rows with an index, categories as codes."""
    with h5py.File(path, "w") as file:
        for name, matrix in matrices.items():
            sparse(file, name.replace("__", "/"), matrix)
        rows = 60
        obs = file.create_group("obs")
        obs.attrs["_index"] = "_index"
        obs.attrs["column-order"] = ["label", "depth", "batch"]
        obs["_index"] = np.array([f"cell-{k}" for k in range(rows)], dtype=h5py.string_dtype())
        label = obs.create_group("label")
        label["categories"] = np.array(["T", "B"], dtype=h5py.string_dtype())
        label["codes"] = np.arange(rows, dtype=np.int8) % 3 - 1
        obs["depth"] = np.arange(rows) * 0.5
        batch = obs.create_group("batch")
        batch["values"] = np.arange(rows)
        batch["mask"] = np.arange(rows) == 1
    return path


def table_of(path: Path) -> pa.Table:
    source = open_source(path)
    return pa.Table.from_batches(source.batches(), source.schema)


def test_counts_and_notes_are_columns(tmp_path: Path) -> None:
    table = table_of(annotated(tmp_path / "t.h5ad", X=COUNTS))

    assert table.column_names == [
        "id",
        "label",
        "depth",
        "batch",
        "gene_indices",
        "gene_counts",
    ]
    first = table.slice(0, 3).to_pylist()
    assert [row["id"] for row in first] == ["cell-0", "cell-1", "cell-2"]
    assert [row["label"] for row in first] == [None, "T", "B"]
    assert [row["batch"] for row in first] == [0, None, 2]
    for row, counts in zip(table.to_pylist(), COUNTS, strict=True):
        assert row["gene_indices"] == np.flatnonzero(counts).tolist()
        assert row["gene_counts"] == counts[counts > 0].tolist()


def test_genes_are_encoded_and_notes_travel_along(tmp_path: Path) -> None:
    source = open_source(annotated(tmp_path / "t.h5ad", X=COUNTS))
    contract = infer_contract(survey(source.batches(), source.schema), name="cells")

    kinds = {column.name: column.kind for column in contract.columns}
    assert kinds == {
        "id": "key",
        "label": "label",
        "depth": "carry",
        "batch": "carry",
        "gene_indices": "ignore",
        "gene_counts": "count",
    }
    assert contract["gene_counts"].length == 7
    snapshot = ingest(tmp_path / "t.h5ad", name="cells", root=tmp_path)
    encoded = fit_preprocessor(snapshot).transform(snapshot.table())
    np.testing.assert_array_equal(encoded.x, COUNTS)


def test_raw_counts_are_preferred_to_what_was_made_of_them(tmp_path: Path) -> None:
    path = annotated(tmp_path / "t.h5ad", X=np.log1p(COUNTS), layers__counts=COUNTS)
    assert "gene_counts" in table_of(path).column_names
    path = annotated(tmp_path / "u.h5ad", X=np.log1p(COUNTS), raw__X=COUNTS)

    assert "gene_counts" in table_of(path).column_names


def test_a_normalized_matrix_is_a_vector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data.annotated, "READ_BYTES", 300)  # ten rows at a time
    table = table_of(annotated(tmp_path / "t.h5ad", X=np.log1p(COUNTS)))

    np.testing.assert_allclose(table["x"].to_pylist(), np.log1p(COUNTS), rtol=1e-6)


def test_a_dense_matrix_is_read_too(tmp_path: Path) -> None:
    path = annotated(tmp_path / "t.h5ad")
    with h5py.File(path, "a") as file:
        file["X"] = COUNTS.astype(np.float64)
    table = table_of(path)

    assert table.schema.field("x").type == pa.list_(pa.int32(), 7)
    assert table["x"].to_pylist() == COUNTS.tolist()


def test_late_fractions_among_counts_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data.annotated, "LOOK_ROWS", 10)
    late = COUNTS.astype(float)
    late[50, 0] = 0.5

    with pytest.raises(SourceError, match="begins with counts and goes on with other numbers"):
        table_of(annotated(tmp_path / "t.h5ad", X=late))


def test_columns_that_lie_together_are_refused(tmp_path: Path) -> None:
    path = annotated(tmp_path / "t.h5ad")
    with h5py.File(path, "a") as file:
        sparse(file, "X", COUNTS, "csc_matrix")

    with pytest.raises(SourceError, match=r"X is a csc_matrix; .* convert it with X.tocsr\(\)"):
        table_of(path)


def test_a_file_without_a_matrix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="has none of layers/counts, raw/X, X"):
        table_of(annotated(tmp_path / "t.h5ad"))


def test_without_h5py_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = annotated(tmp_path / "t.h5ad", X=COUNTS)
    monkeypatch.setattr(data.annotated, "h5py", None)

    with pytest.raises(SourceError, match=r"needs h5py; install it with pip install"):
        data.annotated.open_h5ad(path)
