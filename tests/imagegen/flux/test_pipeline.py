"""The fast path generates the same images as diffusers' own modules, from disk or memory, in every pipeline.

On a GPU it runs the bundled model with 28 steps; under Triton's interpreter a tiny random model with 2 steps.
"""

import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from imagegen import checkpoint, models
from imagegen.flux import pipeline as fast
from imagegen.settings import Settings
from tests.imagegen import tiny

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
SIDE, STEPS = (32, 2) if INTERPRETED else (256, 28)
TOKENS = 4 if INTERPRETED else 77  # the interpreter takes milliseconds a row
THINGS = [
    "apple",
    "cat on a blue background",
    "rocket at night",
    "house in the forest",
    "butterfly",
    "car",
    "owl",
    "key",
]
OF_EACH = 1 if INTERPRETED else 4
PROMPTS = [f"a {thing}" for thing in (THINGS[:1] if INTERPRETED else THINGS)]
TASKS = ["FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline", "FluxFillPipeline", "FluxKontextPipeline"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    if not INTERPRETED:
        return checkpoint.BUNDLED
    return tiny.write(tmp_path_factory.mktemp("flux") / "tiny")


@pytest.fixture(scope="module")
def references(folder: Any) -> Any:
    """Diffusers' own pipeline in bf16, and one with a float32 transformer. No test changes them."""
    return diffusers_pipeline(folder), in_float32(diffusers_pipeline(folder))


def diffusers_pipeline(folder: Any) -> Any:
    return diffusers.FluxPipeline.from_pretrained(folder, dtype=torch.bfloat16).to(DEVICE)


def in_float32(pipeline: Any) -> Any:
    """Return the pipeline with its transformer in float32; all else stays in bf16, above all the noise."""
    transformer = pipeline.transformer.float()
    forward = transformer.forward

    def float32_forward(**given: Any) -> Any:
        floats = {
            name: value.float() if torch.is_tensor(value) and value.is_floating_point() else value
            for name, value in given.items()
        }
        return (forward(**floats)[0].to(torch.bfloat16),)

    transformer.forward = float32_forward
    return pipeline


def load(folder: Any, precision: str = "bf16") -> Any:
    kind = diffusers.FluxPipeline
    pipeline, path = fast.load(kind, folder, precision=precision, progress=lambda *_: None, device=DEVICE)
    assert path.info["transformer"] == "imagegen.flux"
    return pipeline, path


@pytest.fixture(scope="module")
def loaded(folder: Any) -> Any:
    """A pipeline with its fast path, and the images that it generated."""
    pipeline, path = load(folder)
    return pipeline, path, generate(pipeline, "FluxPipeline")


def image_and_mask() -> Any:
    """Return a synthetic photograph, and a mask over its right half."""
    ramp = np.linspace(0, 255, SIDE).astype(np.uint8)
    image = np.stack([np.tile(ramp, (SIDE, 1)), np.tile(ramp[:, None], (1, SIDE)), np.full((SIDE, SIDE), 90)], -1)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:, SIDE // 2 :] = 255
    return Image.fromarray(image.astype(np.uint8)), Image.fromarray(mask)


def generate(pipeline: Any, kind: Any) -> Any:
    """Return images of all prompts by the pipeline class `kind` with these components, (n, 3, H, W) in float32.

    A single rounding may change a whole image, and a mean over few images varies by a decibel. Therefore several images
    of each prompt are generated.
    """
    pipeline_class = getattr(diffusers, kind)
    accepted = inspect.signature(pipeline_class.__init__).parameters
    pipeline = pipeline_class(**{name: part for name, part in pipeline.components.items() if name in accepted})
    pipeline.set_progress_bar_config(disable=True)
    given = {"height": SIDE, "width": SIDE, "num_inference_steps": STEPS, "guidance_scale": 3.5}
    image, mask = image_and_mask()
    if kind in {"FluxImg2ImgPipeline", "FluxInpaintPipeline"}:
        given["strength"] = 0.8
    if kind != "FluxPipeline":
        given["image"] = image
    if kind in {"FluxInpaintPipeline", "FluxFillPipeline"}:
        given["mask_image"] = mask
    if kind == "FluxKontextPipeline":
        given |= {"_auto_resize": False, "max_area": SIDE * SIDE}
    batches = [
        pipeline(
            prompt=prompt,
            **given,
            max_sequence_length=min(TOKENS, pipeline.tokenizer_2.model_max_length),
            num_images_per_prompt=OF_EACH,
            generator=[torch.Generator().manual_seed(OF_EACH * index + each) for each in range(OF_EACH)],
            output_type="pt",
        ).images
        for index, prompt in enumerate(PROMPTS)
    ]
    return torch.cat(batches).float().cpu()


def psnr(some: Any, others: Any) -> Any:
    """Return the PSNR of each pair of images in 0..1, in dB."""
    return -10 * (some - others).square().mean(dim=(1, 2, 3)).clamp_(min=1e-10).log10()


def assert_as_exact(label: Any, images: Any, bf16: Any, fp32: Any) -> None:
    """Our images are as close to those of a float32 transformer as diffusers' bf16 images are, and close to these."""
    near, far = float(psnr(images, fp32).mean()), float(psnr(bf16, fp32).mean())
    apart = psnr(images, bf16)
    print(f"{label}: PSNR to float32 {near:.1f} dB, of diffusers' bf16 {far:.1f} dB")
    print(f"{label}: PSNR to diffusers' bf16 {apart.mean():.1f} dB, at least {apart.min():.1f}")
    assert near > far - 1.5
    assert apart.min() > 25


@pytest.mark.parametrize("kind", TASKS[:3])
def test_a_pipeline_from_disk_draws_the_same_images(references: Any, loaded: Any, kind: Any) -> None:
    pipeline, _, images = loaded
    if kind != "FluxPipeline":
        images = generate(pipeline, kind)
    assert_as_exact(kind, images, *(generate(each, kind) for each in references))


def test_weight_files_of_a_variant_are_the_ones_read(references: Any, loaded: Any, tmp_path: Path) -> None:
    references[0].save_pretrained(tmp_path, variant="bf16")
    (tmp_path / "transformer" / "older.safetensors").write_bytes(b"not one of the index's files")
    pipeline, _ = load(tmp_path)
    for name in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        expected, weights = (getattr(each, name).state_dict() for each in (loaded[0], pipeline))
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[key], expected[key]) for key in weights)


def test_warming_up_does_not_change_later_images(loaded: Any) -> None:
    pipeline, _, images = loaded
    fast.warm_up(pipeline.transformer, rows=(SIDE // 16) ** 2, text_length=3)
    fast.warm_up(pipeline.transformer, **({"rows": 2, "text_length": 1} if INTERPRETED else {"rows": 6}))
    assert torch.equal(generate(pipeline, "FluxPipeline"), images)


def test_freed_caches_are_rebuilt_with_the_same_images(loaded: Any) -> None:
    pipeline, path, images = loaded
    transformer, caches = path.transformer, path.graph_caches
    assert transformer._constants
    assert INTERPRETED or all(cache.captured for cache in caches)
    assert not path.capturing
    path.free_caches()
    assert not transformer._constants
    assert not any(cache.captured for cache in caches)
    assert torch.equal(generate(pipeline, "FluxPipeline"), images)


def test_defaults_of_the_config_are_those_of_diffusers() -> None:
    parameters = inspect.signature(diffusers.FluxTransformer2DModel.__init__).parameters
    assert {name: parameters[name].default for name in fast.CONFIG_DEFAULTS} == fast.CONFIG_DEFAULTS


def test_reading_the_transformer_does_not_import_diffusers(folder: Any) -> None:
    script = (
        "import sys; from pathlib import Path; from imagegen.flux import pipeline;"
        "read = pipeline.read_transformer(Path(sys.argv[1]), progress=lambda *_: None, device=sys.argv[2]);"
        "pipeline.warm_up(read.module, 1, 1);"
        "assert not {'diffusers', 'transformers', 'accelerate'} & sys.modules.keys(), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, str(folder), DEVICE], check=True, timeout=300)


def test_steps_are_captured_for_the_prompt_length_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_transformer(_folder: Any, **given: Any) -> Any:
        return given | {"switch interval": sys.getswitchinterval()}

    monkeypatch.setattr(fast, "read_transformer", read_transformer)
    path = SimpleNamespace(info={})
    monkeypatch.setattr(fast, "load", lambda _kind, _folder, *, transformer, **_: (transformer.result(), path))
    before = sys.getswitchinterval()
    given, _ = models._load_fast(checkpoint.BUNDLED, Settings(max_sequence_length=77), lambda *_: None)
    assert given["text_length"] == 77
    assert given["switch interval"] < before == sys.getswitchinterval()


@pytest.mark.parametrize("kind", TASKS[3:])
def test_fill_and_kontext_pipelines_draw_the_same_images(folder: Any, references: Any, kind: Any) -> None:
    def pipeline() -> Any:
        from_disk = diffusers_pipeline(folder)
        if kind == "FluxFillPipeline":  # its inputs are noise, masked image and mask
            torch.manual_seed(0)
            config = {**from_disk.transformer.config, "in_channels": 384, "out_channels": 64}
            filling = diffusers.FluxTransformer2DModel.from_config(config)
            from_disk.register_modules(transformer=filling.to(DEVICE, torch.bfloat16))
        return from_disk

    ours = pipeline()
    fast.replace_modules(ours, device=DEVICE)
    # All use diffusers' VAE, since ours rounds twice as coarsely in the interpreter; test_vae compares the VAEs.
    ours.register_modules(vae=references[0].vae)
    assert_as_exact(kind, *(generate(each, kind) for each in (ours, pipeline(), in_float32(pipeline()))))


def test_a_fused_lora_draws_the_same_images(folder: Any, references: Any, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model_state_dict

    adapted = diffusers_pipeline(folder)
    layers = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "proj_mlp", "proj_out", "ff.net.2", "norm1.linear"]
    torch.manual_seed(1)
    adapted.transformer.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=layers, init_lora_weights=False))
    adapted.save_lora_weights(tmp_path, transformer_lora_layers=get_peft_model_state_dict(adapted.transformer))

    def with_lora() -> Any:
        pipeline = diffusers_pipeline(folder)
        pipeline.load_lora_weights(tmp_path)
        return pipeline

    ours = with_lora()
    ours.fuse_lora()
    fast.replace_modules(ours, device=DEVICE)
    ours.register_modules(vae=references[0].vae)  # as above
    bf16 = generate(with_lora(), "FluxPipeline")
    assert_as_exact("LoRA", generate(ours, "FluxPipeline"), bf16, generate(in_float32(with_lora()), "FluxPipeline"))
    assert psnr(bf16, generate(references[0], "FluxPipeline")).mean() < 25  # the LoRA changes the image


@pytest.mark.skipif(INTERPRETED, reason="needs the GPU's fp8 matmul")
def test_fp8_draws_nearly_the_same_images(folder: Any) -> None:
    pipeline, _ = load(folder, precision="fp8")
    near = psnr(generate(pipeline, "FluxPipeline"), generate(diffusers_pipeline(folder), "FluxPipeline"))
    print(f"fp8: PSNR to diffusers' bf16 {near.mean():.1f} dB")
    assert near.min() > 15


def test_the_error_for_a_truncated_file_names_the_tensor(folder: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (weights,) = (broken / "transformer").glob("*.safetensors")
    with weights.open("rb+") as file:
        file.truncate(weights.stat().st_size - 1000)
    with pytest.raises(EOFError, match="weight file ends within"):
        load(broken)
