"""Model folders that are damaged, incomplete or unusable: each is refused in one line before anything is loaded."""

import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from imagegen import checkpoint, models
from imagegen.errors import LoadError, WeightsMissing
from imagegen.settings import Settings

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 23802947360\n"
HTML = b"\n<!DOCTYPE html><html><title>Sign in</title></html>"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
Break = Callable[[Path], object]


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "copy")


def refusal(folder: Path) -> LoadError:
    """Return the error for a folder: one line that names the folder and a file in it, and ends with a remedy."""
    with pytest.raises(LoadError) as caught:
        checkpoint.components(folder)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    assert message.endswith((".", "chutes download a/model"))
    return caught.value


def cut(name: str, size: int) -> Break:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def put(name: str, content: bytes) -> Break:
    return lambda folder: (folder / name).write_bytes(content)


def merge(name: str, **entries: object) -> Break:
    """Change entries of a JSON file."""
    return lambda folder: (folder / name).write_text(json.dumps({**json.loads((folder / name).read_text()), **entries}))


def as_shards(**weight_map: object) -> Break:
    def split(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder / "transformer" / "one.safetensors")
        put(f"{WEIGHTS}.index.json", json.dumps({"weight_map": weight_map}).encode())(folder)

    return split


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (put(WEIGHTS, POINTER), f"{WEIGHTS} is a Git LFS pointer, not the file itself. Run `git lfs pull`"),
        (put("tokenizer/tokenizer.json", POINTER), "tokenizer/tokenizer.json is a Git LFS pointer"),
        (put(WEIGHTS, b""), f"{WEIGHTS} is empty. Copy all files"),
        (cut(WEIGHTS, 5), f"{WEIGHTS} is truncated"),
        (cut(WEIGHTS, 2000), f"{WEIGHTS} is truncated: it has 2,000 bytes, and its header alone"),
        (cut(WEIGHTS, -1), f"{WEIGHTS} is truncated: it has "),
        (as_shards(a="one.safetensors", b="two.safetensors"), "transformer/two.safetensors is missing"),
        (lambda folder: shutil.rmtree(folder / "tokenizer_2"), "tokenizer_2 is missing"),
        (lambda folder: (folder / "tokenizer_2/tokenizer.json").unlink(), "tokenizer_2 has no vocabulary"),
        (lambda folder: (folder / "scheduler/scheduler_config.json").unlink(), "scheduler_config.json is missing"),
        (lambda folder: (folder / "vae/config.json").unlink(), "vae/config.json is missing"),
        (lambda folder: (folder / WEIGHTS).rename(folder / "transformer/q4.gguf"), "diffusers reads, only q4.gguf."),
        (lambda folder: (folder / WEIGHTS).unlink(), "transformer has no weights that diffusers reads. Copy all"),
    ],
)
def test_files_are_missing(copy: Path, damage: Break, expected: str) -> None:
    damage(copy)
    error = refusal(copy)
    assert isinstance(error, WeightsMissing)
    assert expected in str(error)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (put(WEIGHTS, HTML), f"{WEIGHTS} is a web page"),
        (put(WEIGHTS, b"PK\3\4 and so on"), f"{WEIGHTS} is not a safetensors file"),
        (put(WEIGHTS, b"\xff" * 1000), f"{WEIGHTS} is not a safetensors file. Copy or download this file again."),
        (put(WEIGHTS, (2).to_bytes(8, "little") + b"{}extra"), "is damaged: it has 15 bytes, and its header describes"),
        (put(WEIGHTS, (2).to_bytes(8, "little") + b"[]"), "is not a safetensors file, or has a damaged header"),
        (put("vae/config.json", HTML), "vae/config.json is a web page (HTML or XML) that was saved under this name"),
        (put("vae/config.json", b"model: vae"), "vae/config.json is not JSON: Expecting value"),
        (put("vae/config.json", b"[1]"), "vae/config.json holds no JSON object"),
        (put("vae/config.json", b"\xff\xfe{}"), "vae/config.json is not JSON."),
        (put("vae/config.json", b"[" * 100_000), "vae/config.json is not JSON. Copy"),
        (put("scheduler/scheduler_config.json", b'{"shift": '), "scheduler/scheduler_config.json is not JSON"),
        (put("tokenizer/tokenizer.json", b'{"a":' + b" " * 5_000_000), "tokenizer.json is not JSON, or is truncated"),
        (put("model_index.json", HTML), "model_index.json is a web page"),
        (put("model_index.json", b"[]"), "model_index.json holds no JSON object"),
        (put("model_index.json", b"{}"), "model_index.json has no _class_name"),
        (merge("model_index.json", _class_name=7), "has no _class_name that is the name of a pipeline class"),
        (merge("model_index.json", _class_name=["pipeline", "Mine"]), "in the folder's own code. Code in model"),
        (merge("model_index.json", vae=["my_vae", "VAE"]), "takes vae from 'my_vae', which is neither"),
        (merge("model_index.json", vae=["../x", "VAE"]), "takes vae from '../x', which is neither"),
        (put("vae/diffusers.py", b"raise SystemExit"), "vae/diffusers.py is code for AutoencoderKL. Code in model"),
        (merge("vae/config.json", auto_map={"AutoencoderKL": "code.VAE"}), "vae/config.json names code for Auto"),
        (as_shards(), "index.json names no files in weight_map"),
        (as_shards(a="../vae/model.safetensors"), "names '../vae/model.safetensors', which is no file of this folder"),
        (as_shards(a=1), "names 1, which is no file of this folder"),
    ],
)
def test_files_are_unusable(copy: Path, damage: Break, expected: str) -> None:
    damage(copy)
    error = refusal(copy)
    assert not isinstance(error, WeightsMissing)
    assert "cannot be loaded: " in str(error)
    assert expected in str(error)


def test_the_files_of_a_downloaded_model_are_downloaded_again(copy: Path) -> None:
    put(WEIGHTS, POINTER)(copy)
    with pytest.raises(WeightsMissing, match=r"the file itself\. Get them with: chutes download a/model$"):
        checkpoint.components(copy, repository="a/model")


def test_the_description_must_be_json(copy: Path) -> None:
    put("imagegen.json", b"name: mine")(copy)
    with pytest.raises(LoadError, match=r"cannot be loaded: imagegen\.json is not JSON"):
        checkpoint.read_description(copy)


def test_values_that_are_no_components_are_skipped(copy: Path) -> None:
    whole = checkpoint.components(copy)
    values = {
        "layers": [2, 5],
        "distilled": True,
        "scale": None,
        "safety_checker": [None, None],
        "names": ["a", "b", "c"],
    }
    merge("model_index.json", **values)(copy)
    assert checkpoint.components(copy) == whole


def test_code_that_a_class_does_not_need_is_ignored(copy: Path) -> None:
    merge("text_encoder/config.json", auto_map={"AutoModel": "code.Model"})(copy)
    put("pipeline.py", b"raise SystemExit")(copy)
    assert "text_encoder" in checkpoint.components(copy)


@pytest.mark.parametrize("library", ["stable_diffusion", "kolors", "deepfloyd_if"])
def test_a_component_of_one_of_diffusers_pipelines(copy: Path, library: str) -> None:
    merge("model_index.json", vae=[library, "VAE"])(copy)
    assert checkpoint.components(copy)["vae"].library == library


@pytest.mark.parametrize(
    ("config", "package"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "torchao"}, "torchao"),
        ({"quant_method": "gguf"}, "gguf"),
        ({"quant_method": "quanto"}, "optimum-quanto"),
    ],
)
def test_quantised_weights_need_a_package(
    copy: Path, config: dict[str, object], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge("transformer/config.json", quantization_config=config)(copy)
    with pytest.raises(LoadError, match=rf"transformer/config\.json .* Install it with: pip install {package}$"):
        checkpoint.components(copy)
    monkeypatch.setattr(checkpoint, "find_spec", lambda module: object())
    component = checkpoint.components(copy)["transformer"]
    assert component.quantization == config.get("quant_method", "bitsandbytes")
    stored = sum(tensor.nbytes for tensor in load_file(copy / WEIGHTS).values())
    assert component.parameters == stored // 2


def test_integers_count_by_their_bytes(copy: Path) -> None:
    save_file({"packed": torch.zeros(100, dtype=torch.uint8), "scale": torch.zeros(3)}, copy / WEIGHTS)
    assert checkpoint.components(copy)["transformer"].parameters == 53


def to_bin(folder: Path, *, dtype: torch.dtype = torch.float32, variant: str = "", zipped: bool = True) -> None:
    """Replace the safetensors files of a model by files of `torch.save`."""
    for file in folder.rglob("*.safetensors"):
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(file).items()}
        base = "pytorch_model" if file.stem == "model" else file.stem
        torch.save(tensors, file.with_name(f"{base}{variant}.bin"), _use_new_zipfile_serialization=zipped)
        file.unlink()


@pytest.mark.parametrize(("dtype", "variant"), [(torch.float32, ""), (torch.float16, ".fp16"), (torch.bfloat16, "")])
def test_bin_files_count_as_safetensors_do(copy: Path, dtype: torch.dtype, variant: str) -> None:
    whole = checkpoint.components(copy)
    to_bin(copy, dtype=dtype, variant=variant)
    for name, component in checkpoint.components(copy).items():
        assert not component.safetensors
        assert component.variant == (variant.strip(".") or None)
        assert component.parameters == pytest.approx(whole[name].parameters, rel=0.02)  # CLIP's position_ids


@pytest.mark.parametrize("sharded", [False, True])
def test_bin_files_load(copy: Path, model: models.Model, sharded: bool) -> None:
    to_bin(copy)
    if sharded:
        for file in copy.rglob("*.bin"):
            shard = file.rename(file.with_name(f"{file.stem}-00001-of-00001.bin"))
            weight_map = dict.fromkeys(torch.load(shard), shard.name)
            index = {"metadata": {}, "weight_map": weight_map}
            file.with_name(f"{file.name}.index.json").write_text(json.dumps(index))
    loaded = models.load(str(copy), settings=Settings())
    for name in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        expected = getattr(model.pipeline, name).state_dict()
        actual = getattr(loaded.pipeline, name).state_dict()
        assert all(torch.equal(actual[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda file: file.write_bytes(POINTER), "is a Git LFS pointer"),
        (lambda file: file.write_bytes(b""), "is empty"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1000]), "is truncated or damaged"),
        (lambda file: file.write_bytes(b"rubbish"), "is not a PyTorch checkpoint"),
        (lambda file: zipfile.ZipFile(file, "w").writestr("a.txt", "a"), "is truncated or damaged. Copy"),
        (
            lambda file: torch.save({}, file, _use_new_zipfile_serialization=False),
            "is in the format of PyTorch before 1.6",
        ),
    ],
)
def test_damaged_bin_files(copy: Path, damage: Break, expected: str) -> None:
    to_bin(copy)
    damage(copy / "vae/diffusion_pytorch_model.bin")
    assert f"vae/diffusion_pytorch_model.bin {expected}" in str(refusal(copy))


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "text_encoder_2"])
def test_a_weight_that_no_file_has_is_named(copy: Path, part: str) -> None:
    """Otherwise transformers would initialise it at random, and the images would be wrong."""
    (file,) = (copy / part).glob("*.safetensors")
    tensors = load_file(file)
    lost = min(name for name in tensors if "norm" in name)
    del tensors[lost]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(WeightsMissing, match=f"incomplete: {part} lacks 1 weights, such as .*{lost}"):
        models.load(str(copy), settings=Settings())


class _Code:
    """An object whose pickle writes a file when it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.file, "run")


def test_code_in_bin_files_is_not_run(copy: Path, tmp_path: Path) -> None:
    to_bin(copy)
    file = copy / "vae/diffusion_pytorch_model.bin"
    torch.save({"a": torch.zeros(1), "b": _Code(tmp_path / "proof")}, file)
    assert pickle.loads(pickle.dumps(_Code(tmp_path / "control")))  # the trap works
    with pytest.raises(LoadError):
        models.load(str(copy), settings=Settings())
    assert not (tmp_path / "proof").exists()


FUZZED = {
    "transformer/diffusion_pytorch_model.safetensors": b"",
    "vae/diffusion_pytorch_model.bin": b"",
    "model_index.json": b"",
    "vae/config.json": b"",
    "tokenizer/tokenizer.json": b"",
    "scheduler/scheduler_config.json": b"",
    "text_encoder_2/model.safetensors.index.json": b"",
}


@pytest.fixture(scope="module")
def fuzzed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model folder with files of every kind: safetensors, sharded or not, and `.bin`."""
    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("fuzzed") / "model")
    torch.save({"a": torch.zeros(2), "b": torch.zeros(3)}, folder / "vae/diffusion_pytorch_model.bin")
    (folder / "vae/diffusion_pytorch_model.safetensors").unlink()
    save_file({"a": torch.zeros(2), "b": torch.zeros(3, dtype=torch.float16)}, folder / WEIGHTS)
    shard = folder / "text_encoder_2/model-00001-of-00001.safetensors"
    (folder / "text_encoder_2/model.safetensors").rename(shard)
    index = {"metadata": {}, "weight_map": {"a": shard.name}}
    shard.with_name("model.safetensors.index.json").write_text(json.dumps(index))
    for name in FUZZED:
        FUZZED[name] = (folder / name).read_bytes()
    checkpoint.components(folder)
    return folder


@settings(max_examples=300, deadline=10_000)
@given(
    name=st.sampled_from(sorted(FUZZED)),
    end=st.none() | st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4),
)
def test_any_damage_is_a_load_error_or_harmless(
    fuzzed: Path, name: str, end: float | None, flips: list[tuple[float, int]]
) -> None:
    """Truncate a file and replace some of its bytes: the check returns or raises LoadError, soon."""
    content = io.BytesIO(FUZZED[name])
    size = len(FUZZED[name])
    for place, byte in flips:
        content.seek(int(place * size))
        content.write(bytes([byte]))
    (fuzzed / name).write_bytes(content.getvalue()[: None if end is None else int(end * size)])
    with suppress(LoadError):
        checkpoint.components(fuzzed)
    (fuzzed / name).write_bytes(FUZZED[name])
