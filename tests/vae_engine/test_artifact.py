"""Artifacts: every byte accounted for, no code run, the same features where they are loaded."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import torch as safetensors

from tests.vae_engine.rows import MIXED, PICTURE, grey, pictures, random_model, sampled, table
from vae_engine.artifact import ArtifactError, load_model, save_model, seal, verify
from vae_engine.encoding import encode
from vae_engine.objectives import elbo

X = sampled(table(), 8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", random_model(table()), X)
    return tmp_path / "model"


def test_a_model_comes_back_to_the_same_features(folder: Path) -> None:
    model = load_model(folder)

    assert model.config == table()
    for there, here in zip(encode(random_model(table()), X), encode(model, X), strict=True):
        assert torch.equal(there, here)


def test_a_model_from_before_its_likelihood_had_a_pace_comes_back(folder: Path) -> None:
    path = folder / "model.safetensors"
    now = safetensors.load_file(path)
    slow = [name for name in now if name.endswith(".slow")]
    assert {name.split(".")[-2] for name in slow} == {"log_total", "first", "0"}
    before = {
        name.removesuffix(".slow"): 10 * weight if name in slow else weight
        for name, weight in now.items()
    }
    safetensors.save_file(before, path)
    seal(folder)

    found = load_model(folder).state_dict()
    assert all(torch.allclose(found[name], weight) for name, weight in now.items())


def test_the_digest_is_a_function_of_the_model(tmp_path: Path) -> None:
    one, two, other = (
        save_model(tmp_path / str(k), random_model(table(), s), X)
        for k, s in enumerate((1, 1, 2))
    )

    assert one == two != other
    load_model(tmp_path / "0", digest=one)
    with pytest.raises(ArtifactError, match="SHA256SUMS is not the one with digest"):
        load_model(tmp_path / "2", digest=one)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "golden.json"])
def test_a_changed_byte_is_refused_before_anything_is_read(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)

    with pytest.raises(ArtifactError) as caught:
        load_model(folder)
    assert str(caught.value) == (
        f"{folder} is not the model that was sealed:\n  {name} was changed\n"
        f"Fetch it again from the registry, or register what is there as a new version."
    )


def test_absent_and_strange_files_are_named(folder: Path) -> None:
    (folder / "golden.json").unlink()
    (folder / "extra.pkl").write_bytes(b"cos\nsystem\n")

    with pytest.raises(ArtifactError) as caught:
        verify(folder, None)
    assert "golden.json is absent\n  extra.pkl is in no sum" in str(caught.value)


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    (folder / "config.json").rename(outside)
    (folder / "config.json").symlink_to(outside)

    with pytest.raises(ArtifactError, match=r"config\.json was changed"):
        verify(folder, None)


def test_files_of_others_are_sealed_with_the_model(folder: Path) -> None:
    (folder / "contract.json").write_text("{}")
    digest = seal(folder)

    verify(folder, digest)
    load_model(folder, digest=digest)


def test_a_folder_without_sums_is_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="has no readable SHA256SUMS"):
        load_model(tmp_path)


def test_a_newer_format_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text()) | {"format_version": 2}
    (folder / "config.json").write_text(json.dumps(config))
    seal(folder)

    with pytest.raises(
        ArtifactError, match="is 'latent-features/model' version 2; this code reads"
    ):
        load_model(folder)


def test_weights_of_another_model_are_refused(folder: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "other", random_model(pictures()), grey(4))
    (folder / "model.safetensors").write_bytes(
        (tmp_path / "other" / "model.safetensors").read_bytes()
    )
    seal(folder)

    with pytest.raises(ArtifactError, match=r"weights do not fit config\.json"):
        load_model(folder)


def test_a_replay_that_gives_other_features_is_refused(folder: Path) -> None:
    golden = json.loads((folder / "golden.json").read_text())
    golden["mean"][0][0] += 10
    (folder / "golden.json").write_text(json.dumps(golden))
    seal(folder)

    with pytest.raises(ArtifactError, match=r"mean of the golden rows differs by [0-9]"):
        load_model(folder)


def test_eight_bit_pictures_have_golden_rows_too(tmp_path: Path) -> None:
    save_model(tmp_path / "model", random_model(pictures()), grey(4))

    assert load_model(tmp_path / "model").config == pictures()


@pytest.mark.parametrize(
    "settings",
    [
        {"posterior": "full"},
        {"posterior": "iaf"},
        {"posterior": "spline", "prior": "flow"},
        {"prior": "mixture"},
        {"prior": "vamp", "components": 3},
        {"upper_latents": 2},
        {"one_hot_up_to": 3},
        {"one_hot_up_to": 3, "principal_components": 2},
        {"columns": (PICTURE,), "principal_components": 4, "prior": "vamp", "components": 3},
        {"weights": "variational"},
        {"columns": (MIXED[0], PICTURE), "network": "conv", "hidden": (4,)},
        {"columns": (PICTURE,), "network": "residual", "hidden": (4, 4)},
    ],
    ids=str,
)
def test_every_kind_of_model_comes_back(tmp_path: Path, settings: dict[str, Any]) -> None:
    config = table(**settings)
    model = random_model(config, spread=0.1)
    x = sampled(config, 8)
    save_model(tmp_path / "model", model, x)
    loaded = load_model(tmp_path / "model")

    for there, here in zip(encode(model, x), encode(loaded, x), strict=True):
        assert torch.equal(there, here)
    noise = torch.randn(2, 8, model.latents, generator=torch.Generator().manual_seed(0))
    assert torch.equal(elbo(model, x, noise), elbo(loaded, x, noise))
