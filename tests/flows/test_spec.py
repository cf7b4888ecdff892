from pathlib import Path

import pytest

from flows.spec import SpecError, load_spec


def written(folder: Path, text: str) -> str:
    path = folder / "spec.toml"
    path.write_text(text)
    return str(path)


def test_a_data_file_stands_for_a_spec_in_which_everything_is_inferred(tmp_path: Path) -> None:
    source = tmp_path / "My Table (v2).parquet"
    source.touch()

    spec = load_spec(str(source))

    assert spec.dataset.name == "my-table-v2"
    assert spec.dataset.source == str(source)
    assert spec.model.latents is None


def test_a_relative_source_starts_at_the_spec(tmp_path: Path) -> None:
    spec = load_spec(written(tmp_path, '[dataset]\nname = "a"\nsource = "a.csv"\n'))

    assert spec.dataset.source == str(tmp_path / "a.csv")


def test_set_overrides_a_value_and_a_bare_word_is_a_string(tmp_path: Path) -> None:
    path = written(
        tmp_path, '[dataset]\nname = "a"\nsource = "a.csv"\n[training]\nepochs = 3\n'
    )

    spec = load_spec(path, ["training.epochs=5", "model.hidden=[4, 4]", "dataset.label=income"])

    assert spec.training.epochs == 5
    assert spec.model.hidden == (4, 4)
    assert spec.dataset.label == "income"


def test_every_wrong_key_is_named_with_the_near_miss(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        '[dataset]\nname = "a"\nsource = "a.csv"\nsplit = { valdi = 0.2 }\n'
        "csv = { headr = true, nulls = '?' }\n"
        "[training]\nepoch = 3\nlearning_rate = -1\n",
    )

    with pytest.raises(SpecError) as caught:
        load_spec(path)

    assert str(caught.value) == (
        f"{path} has 5 wrong keys or values:\n"
        "  unknown key dataset.split.valdi; did you mean 'valid'?\n"
        "  dataset.csv.nulls = '?': Input should be a valid list\n"
        "  unknown key dataset.csv.headr; did you mean 'header'?\n"
        "  training.learning_rate = -1: Input should be greater than 0\n"
        "  unknown key training.epoch; did you mean 'epochs'?"
    )


@pytest.mark.parametrize("name", ["../up", "a/b", "..", "A", "", "a" * 65, "a\nb", "%2e%2e"])
def test_a_name_that_could_leave_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    path = written(
        tmp_path, f"[dataset]\nname = {name!r}\nsource = 'a.csv'\n".replace("\n'", "'")
    )

    with pytest.raises(SpecError):
        load_spec(path)


def test_a_name_that_is_nothing_offers_the_near_miss() -> None:
    with pytest.raises(SpecError) as caught:
        load_spec("mnits")

    assert str(caught.value) == (
        "'mnits' is neither a data file, a spec nor a name in the catalog; "
        "did you mean 'mnist'?"
    )


def test_a_missing_spec_offers_its_neighbour(tmp_path: Path) -> None:
    written(tmp_path, "")

    with pytest.raises(SpecError, match=r"does not exist; did you mean '.*spec\.toml'\?"):
        load_spec(str(tmp_path / "spce.toml"))


def test_a_spec_asks_for_a_gpu_by_name() -> None:
    assert not load_spec("mnist").asks_for_gpu  # `auto` takes one where there is one
    for setting in ("training.device=cuda", "execution.device=cuda:1"):
        assert load_spec("mnist", [setting]).asks_for_gpu
    with pytest.raises(SpecError, match="device"):
        load_spec("mnist", ["execution.device=gpu"])


@pytest.mark.parametrize("override", ["epochs=3", "training.epochs", "training.=3"])
def test_a_malformed_override_says_the_form(tmp_path: Path, override: str) -> None:
    path = written(tmp_path, '[dataset]\nname = "a"\nsource = "a.csv"\n')

    with pytest.raises(SpecError, match=r"section\.key=value"):
        load_spec(path, [override])
