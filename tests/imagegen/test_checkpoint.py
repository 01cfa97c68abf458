"""Find a model's files, or say how to get them."""

import json
import shutil
from pathlib import Path

import pytest

from imagegen import checkpoint
from imagegen.errors import LoadError, WeightsMissing


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "copy")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_defaults() -> None:
    assert checkpoint.default_source(has_gpu=True) == "black-forest-labs/FLUX.1-dev"
    assert checkpoint.default_source(has_gpu=False) == str(checkpoint.BUNDLED)


def test_a_folder(tiny_model: Path) -> None:
    assert checkpoint.find(str(tiny_model)) == (tiny_model, "folder")


@pytest.mark.parametrize("source", ["/no/such/folder", "./here", "no-slash", "a/b/c", ""])
def test_a_source_that_is_neither_a_folder_nor_a_hub_id(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LoadError, match="is not a model in diffusers' layout"):
        checkpoint.find(source)


@pytest.mark.parametrize("source", ["a" * 5000, "~nobody-of-that-name/model", "a/\0", "a\nb"])
def test_a_source_that_cannot_be_a_path(source: str, cache: Path) -> None:
    with pytest.raises(LoadError) as error:
        checkpoint.find(source)
    assert "\n" not in str(error.value)


def test_missing_weights_name_the_download_command(cache: Path) -> None:
    with pytest.raises(WeightsMissing) as error:
        checkpoint.find("black-forest-labs/FLUX.1-dev")
    assert str(error.value).endswith("Get them with: chutes download black-forest-labs/FLUX.1-dev")


def test_weights_in_the_hubs_cache(cache: Path, tiny_model: Path) -> None:
    repository = cache / "models--someone--flux"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123abc")
    snapshot = shutil.copytree(tiny_model, repository / "snapshots" / "0123abc")
    assert checkpoint.find("someone/flux") == (snapshot, "hub")
    (snapshot / "model_index.json").unlink()
    with pytest.raises(WeightsMissing, match=r"someone/flux has no model_index\.json .* chutes download someone/flux"):
        checkpoint.find("someone/flux")


def test_the_bundled_model(bundled: Path) -> None:
    assert checkpoint.find("bundled") == checkpoint.find(str(bundled)) == (bundled, "bundled")


def test_components_and_their_parameters(tiny_model: Path) -> None:
    parts = checkpoint.components(tiny_model)
    assert set(parts) == {"transformer", "text_encoder", "text_encoder_2", "vae"}
    assert parts["transformer"].class_name == "FluxTransformer2DModel"
    sizes = {part: sum(f.stat().st_size for f in (tiny_model / part).glob("*.safetensors")) for part in parts}
    for part, each in parts.items():
        assert 0.7 < 4 * each.parameters / sizes[part] <= 1


@pytest.mark.parametrize("lost", ["transformer/diffusion_pytorch_model.safetensors", "vae", "tokenizer"])
def test_incomplete_weights_are_named(copy: Path, lost: str) -> None:
    path = copy / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(
        WeightsMissing, match=f"incomplete: .*{lost.split('/', maxsplit=1)[0]}.* chutes download some/model"
    ):
        checkpoint.components(copy, repository="some/model")


def test_the_files_that_a_local_folder_lacks_are_to_be_copied(copy: Path) -> None:
    shutil.rmtree(copy / "vae")
    with pytest.raises(WeightsMissing) as error:
        checkpoint.components(copy)
    expected = f"The weights of {copy} are incomplete: vae is missing. Copy all files of the model into this folder."
    assert str(error.value) == expected


def test_all_shards_must_exist(copy: Path) -> None:
    folder = copy / "transformer"
    shard = folder / "diffusion_pytorch_model-00001-of-00002.safetensors"
    (folder / "diffusion_pytorch_model.safetensors").rename(shard)
    missing = "diffusion_pytorch_model-00002-of-00002.safetensors"
    index = {"weight_map": {"a": shard.name, "b": missing}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsMissing, match=f"incomplete: transformer/{missing} is missing"):
        checkpoint.components(copy, repository="some/model")
    shutil.copy(shard, folder / missing)
    whole = checkpoint.components(copy, repository="some/model")["transformer"].parameters
    assert whole == 2 * checkpoint.components(copy)["transformer"].parameters / 2


@pytest.mark.parametrize("variant", ["fp16", "bf16", "fp32"])
def test_a_variant_is_used_if_there_is_no_plain_file(copy: Path, variant: str) -> None:
    whole = checkpoint.components(copy)
    for part, base in (("vae", "diffusion_pytorch_model"), ("text_encoder", "model")):
        plain = copy / part / f"{base}.safetensors"
        shutil.copy(plain, plain.with_name(f"{base}.{variant}.safetensors"))
        assert checkpoint.components(copy)[part].variant is None
        plain.unlink()
        found = checkpoint.components(copy)[part]
        assert (found.variant, found.parameters) == (variant, whole[part].parameters)


def test_shards_of_a_variant(copy: Path) -> None:
    whole = checkpoint.components(copy)["text_encoder"].parameters
    shard = "model.fp16-00001-of-00001.safetensors"
    (copy / "text_encoder" / "model.safetensors").rename(copy / "text_encoder" / shard)
    index = copy / "text_encoder" / "model.safetensors.index.fp16.json"
    index.write_text(json.dumps({"weight_map": {"a": shard, "b": shard}}))
    found = checkpoint.components(copy)["text_encoder"]
    assert (found.variant, found.parameters) == ("fp16", whole)


def test_a_description_is_read_from_imagegen_json(tiny_model: Path, tmp_path: Path) -> None:
    assert checkpoint.read_description(tiny_model) == {"name": "tiny-random", "native_size": 128}
    assert checkpoint.read_description(tmp_path) == {}
