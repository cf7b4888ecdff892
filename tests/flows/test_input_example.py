"""What a registered model shows of its data: nothing that anyone's row holds, unless asked."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from data.checking import conform
from data.preprocessing import Preprocessor, fit_preprocessor
from data.snapshot import Snapshot, ingest
from flows.input_example import input_example
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


def test_real_rows_come_on_request_and_none_where_none_are_wanted(
    known: tuple[Snapshot, Preprocessor],
) -> None:
    shown = input_example("rows", *known)

    assert shown is not None
    pd.testing.assert_frame_equal(shown, people().to_pandas()[list(shown)][:3])
    assert input_example("none", *known) is None
