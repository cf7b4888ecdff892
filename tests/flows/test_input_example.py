"""What a registered model shows of its data: nothing that anyone's row holds, unless asked."""

from pathlib import Path
from typing import Literal

import pandas as pd
import pyarrow as pa
import pytest

from data.checking import conform
from data.preprocessing import Preprocessor, fit_preprocessor
from data.snapshot import Snapshot, ingest
from flows.input_example import input_example
from flows.register import inputs_of
from tests.flows.test_report import people


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[Snapshot, Preprocessor]:
    """A table with a column of each kind, and the map fitted to it."""
    snapshot = ingest(
        people(),
        name="people",
        root=Path(tmp_path_factory.mktemp("home")),
        key="person",
        label="group",
        overrides={"remark": {"kind": "carry"}},
    )
    return snapshot, fit_preprocessor(snapshot)


def test_made_up_rows_keep_the_contract_and_are_nobodys(
    known: tuple[Snapshot, Preprocessor],
) -> None:
    shown = input_example("synthetic", *known)
    assert shown is not None

    real = people().to_pandas()[list(shown)]
    conform(pa.Table.from_pandas(shown, preserve_index=False), known[0].contract.inputs)
    assert len(shown.merge(real)) == 0
    assert shown["income"].between(real["income"].min(), real["income"].max()).all()
    assert set(shown["sort"]) == set(real["sort"])


@pytest.mark.parametrize("kind", ["synthetic", "rows"])
def test_integers_that_may_have_gaps_are_what_the_signature_says(
    kind: Literal["synthetic", "rows"], tmp_path: Path
) -> None:
    """Floats, as pandas holds them: the first rows have no gap that would make them so."""
    rows = range(300)
    table = pa.table(
        {
            "id": rows,
            "code": pa.array([None if k % 10 == 9 else k % 3 for k in rows], pa.int64()),
            "size": pa.array([None if k % 10 == 8 else 7 * k % 101 for k in rows], pa.int64()),
            "whole": [k % 5 for k in rows],
        }
    )
    overrides = {"code": {"kind": "categorical"}}
    snapshot = ingest(table, name="t", root=tmp_path, key="id", overrides=overrides)
    shown = input_example(kind, snapshot, fit_preprocessor(snapshot))

    assert shown is not None
    asked = {name: kind for name, kind, _ in inputs_of(snapshot.contract)}
    assert asked == {"code": "double", "size": "double", "whole": "long"}
    assert shown.dtypes.map(str).to_dict() == {
        "code": "float64",
        "size": "float64",
        "whole": "int64",
    }


def test_real_rows_come_on_request_and_none_where_none_are_wanted(
    known: tuple[Snapshot, Preprocessor],
) -> None:
    shown = input_example("rows", *known)

    assert shown is not None
    pd.testing.assert_frame_equal(shown, people().to_pandas()[list(shown)][:3])
    assert input_example("none", *known) is None
