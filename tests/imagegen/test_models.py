"""Which model is loaded, and the errors if it cannot be."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from imagegen import checkpoint, memory, models
from imagegen.errors import LoadError, NodeTooSmall, WeightsMissing
from imagegen.memory import Gpu, GpuRequirements
from imagegen.settings import Settings

H100 = Gpu("NVIDIA H100 80GB HBM3", 79 << 30)


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def machine(monkeypatch: pytest.MonkeyPatch, *gpus: Any) -> None:
    monkeypatch.setattr(memory, "gpus", lambda: list(gpus))


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEGEN_MODEL", "someone/model")
    monkeypatch.setenv("IMAGEGEN_PRECISION", "fp8")
    monkeypatch.setenv("IMAGEGEN_OOM_FALLBACK", "0")
    settings = Settings()
    assert (settings.model, settings.precision, settings.oom_fallback) == ("someone/model", "fp8", False)


def test_info_and_progress(tiny_model: Path) -> None:
    reports = []
    model = models.load(str(tiny_model), settings=Settings(), progress=lambda *report: reports.append(report))
    assert model.info["model"] == "tiny-random"
    assert model.info["origin"] == "folder"
    assert (model.info["device"], model.info["precision"], model.info["memory_plan"]) == ("cpu", "fp32", "cpu")
    assert model.info["native_size"] == 128
    assert model.info["pipelines"] == ["text2image", "img2img", "inpaint"]
    assert str(tiny_model.parent) not in str(model.info)
    stages = [stage for stage, _, _ in reports]
    assert {"reading text_encoder_2", "reading transformer", "reading vae"} <= set(stages)
    done = [done for _, done, _ in reports if done is not None]
    assert done == sorted(done)
    assert done[-1] == reports[0][2]


def test_the_pipelines_share_their_components(model: models.Model) -> None:
    for other in model.pipelines.values():
        for part in ("transformer", "vae", "text_encoder", "text_encoder_2"):
            assert getattr(other, part) is getattr(model.pipeline, part)


def test_the_tokenizer_limits_the_sequence_length(model: models.Model) -> None:
    assert model.profile.tokens == 32  # the setting says 256


def test_without_a_gpu_the_bundled_model(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    model = models.load(settings=Settings(), requirements=GpuRequirements(1, 80))
    assert model.info["origin"] == "bundled"


def test_with_a_gpu_flux_and_the_command_that_downloads_it(monkeypatch: pytest.MonkeyPatch, no_weights: Any) -> None:
    machine(monkeypatch, H100)
    with pytest.raises(WeightsMissing, match=r"chutes download black-forest-labs/FLUX\.1-dev"):
        models.load(settings=Settings(), requirements=GpuRequirements(1, 80))


@pytest.mark.parametrize("gpus", [(), (Gpu("RTX 4090", 24 << 30),)])
def test_flux_on_a_small_node_is_refused_before_its_weights_are_searched(
    monkeypatch: pytest.MonkeyPatch, no_weights: Any, gpus: tuple[Any, ...]
) -> None:
    machine(monkeypatch, *gpus)
    with pytest.raises(NodeTooSmall, match="80 GB"):
        models.load("black-forest-labs/FLUX.1-dev", settings=Settings(), requirements=GpuRequirements(1, 80))


def test_a_folder_as_large_as_flux_is_refused_before_it_is_read(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    machine(monkeypatch, Gpu("RTX 4090", 24 << 30))
    huge = checkpoint.Component("diffusers", "FluxTransformer2DModel", 12_000_000_000, None)
    monkeypatch.setattr(checkpoint, "components", lambda folder, repository: {"transformer": huge})
    monkeypatch.setattr(models, "_load_with_diffusers", lambda *_: pytest.fail("read"))
    with pytest.raises(NodeTooSmall):
        models.load(str(tiny_model), settings=Settings(), requirements=GpuRequirements(1, 80))


def test_a_chosen_memory_plan_skips_the_check(monkeypatch: pytest.MonkeyPatch, no_weights: Any) -> None:
    machine(monkeypatch, Gpu("RTX 4090", 24 << 30))
    with pytest.raises(WeightsMissing):  # the next check
        models.load(settings=Settings(memory="auto"), requirements=GpuRequirements(1, 80))


def test_fp8_needs_a_gpu(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    machine(monkeypatch)
    with pytest.raises(LoadError, match="IMAGEGEN_PRECISION=fp8 needs a GPU"):
        models.load(str(tiny_model), settings=Settings(precision="fp8"))


def test_an_unknown_pipeline_class(tiny_model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    index = copy / "model_index.json"
    index.write_text(index.read_text().replace("FluxPipeline", "FancyPipeline"))
    with pytest.raises(LoadError, match=r"class FancyPipeline, which version \S+ does not have"):
        models.load(str(copy), settings=Settings())


@pytest.mark.parametrize(
    ("file", "key", "value", "part"),
    [
        ("transformer/config.json", "num_layers", "many", "transformer"),
        ("text_encoder_2/config.json", "num_heads", [1], "text_encoder_2"),
        ("vae/config.json", "block_out_channels", 5, "vae"),
        ("scheduler/scheduler_config.json", "num_train_timesteps", "x", "scheduler"),
    ],
)
def test_an_error_of_diffusers_is_one_line_with_the_component(
    file: str, key: str, value: object, part: str, tiny_model: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    (copy / file).write_text(json.dumps({**json.loads((copy / file).read_text()), key: value}))
    with pytest.raises(
        LoadError, match=rf"^tiny-random cannot be loaded: {part}: \w+: .+ Check {part}/, or copy"
    ) as error:
        models.load(str(copy), settings=Settings())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a\r\nX-Evil: 1", "a  X-Evil: 1"),
        ("a\x00\u2028b", "a  b"),
        ("Модель 🦄", "Модель 🦄"),
        ("a" * 10**5, "a" * 200),
    ],
)
def test_a_name_fits_into_headers_and_logs(name: str, expected: str, tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (folder / "imagegen.json").write_text(json.dumps({"name": name}))
    assert models.load(str(folder), settings=Settings()).name == expected
