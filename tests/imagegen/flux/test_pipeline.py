"""The fast path draws what diffusers' own modules draw: from disk and from memory, every pipeline, with a LoRA.

On a GPU with the bundled model and 28 steps; where Triton's interpreter does the work, with a tiny random one and two.
"""

import inspect
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

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
def folder(tmp_path_factory):
    if not INTERPRETED:
        return checkpoint.BUNDLED
    return tiny.write(tmp_path_factory.mktemp("flux") / "tiny")


def theirs(folder):
    return diffusers.FluxPipeline.from_pretrained(folder, dtype=torch.bfloat16).to(DEVICE)


def widened(pipeline):
    """The same with its transformer in float32: the rest, the noise above all, stays as it is."""
    transformer = pipeline.transformer.float()
    forward = transformer.forward

    def in_float32(**given):
        floats = {
            name: value.float() if torch.is_tensor(value) and value.is_floating_point() else value
            for name, value in given.items()
        }
        return (forward(**floats)[0].to(torch.bfloat16),)

    transformer.forward = in_float32
    return pipeline


def ours(folder, precision="bf16"):
    kind = diffusers.FluxPipeline
    pipeline, path = fast.load(kind, folder, precision=precision, progress=lambda *_: None, device=DEVICE)
    assert path.info["transformer"] == "imagegen.flux"
    return pipeline


def started_from():
    """A photograph's stand-in, and a mask over its right half."""
    ramp = np.linspace(0, 255, SIDE).astype(np.uint8)
    image = np.stack([np.tile(ramp, (SIDE, 1)), np.tile(ramp[:, None], (1, SIDE)), np.full((SIDE, SIDE), 90)], -1)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:, SIDE // 2 :] = 255
    return Image.fromarray(image.astype(np.uint8)), Image.fromarray(mask)


def draw(pipeline, kind):
    """Pictures of all prompts by the pipeline called `kind` around these components, (n, 3, H, W) in float.

    Of each prompt several: one rounding may change a whole picture, so that a mean over few moves by a decibel.
    """
    made = getattr(diffusers, kind)
    taken = inspect.signature(made.__init__).parameters
    pipeline = made(**{name: part for name, part in pipeline.components.items() if name in taken})
    pipeline.set_progress_bar_config(disable=True)
    given = {"height": SIDE, "width": SIDE, "num_inference_steps": STEPS, "guidance_scale": 3.5}
    image, mask = started_from()
    if kind in {"FluxImg2ImgPipeline", "FluxInpaintPipeline"}:
        given["strength"] = 0.8
    if kind != "FluxPipeline":
        given["image"] = image
    if kind in {"FluxInpaintPipeline", "FluxFillPipeline"}:
        given["mask_image"] = mask
    if kind == "FluxKontextPipeline":
        given |= {"_auto_resize": False, "max_area": SIDE * SIDE}
    length = pipeline.tokenizer_2.model_max_length
    drawn = [
        pipeline(
            prompt=prompt,
            **given,
            max_sequence_length=length,
            num_images_per_prompt=OF_EACH,
            generator=[torch.Generator().manual_seed(OF_EACH * index + each) for each in range(OF_EACH)],
            output_type="pt",
        ).images
        for index, prompt in enumerate(PROMPTS)
    ]
    return torch.cat(drawn).float().cpu()


def psnr(some, others):
    """Of each pair of pictures in 0..1, in dB."""
    return -10 * (some - others).square().mean(dim=(1, 2, 3)).clamp_(min=1e-10).log10()


def hold_together(label, mine, bf16, fp32):
    """Ours is as near to a float32 transformer's as diffusers' bf16 is, and near to that one too."""
    near, far = float(psnr(mine, fp32).mean()), float(psnr(bf16, fp32).mean())
    apart = psnr(mine, bf16)
    print(f"{label}: to float32 {near:.1f} dB, diffusers' bf16 to it {far:.1f} dB")
    print(f"{label}: to each other {apart.mean():.1f} dB, at least {apart.min():.1f}")
    assert near > far - 1.5
    assert apart.min() > 25


@pytest.mark.parametrize("kind", TASKS[:3])
def test_from_disk_it_draws_the_same(folder, kind):
    hold_together(kind, *(draw(each, kind) for each in (ours(folder), theirs(folder), widened(theirs(folder)))))


def test_files_of_a_variant_draw_the_same(folder, tmp_path):
    theirs(folder).save_pretrained(tmp_path, variant="bf16")
    (tmp_path / "transformer" / "older.safetensors").write_bytes(b"not one of the index's files")
    assert torch.equal(draw(ours(tmp_path), "FluxPipeline"), draw(ours(folder), "FluxPipeline"))


def test_warming_up_leaves_the_pictures_as_they_were(folder):
    pipeline = ours(folder)
    before = draw(pipeline, "FluxPipeline")
    fast.warm(pipeline.transformer, rows=(SIDE // 16) ** 2, text=7)
    fast.warm(pipeline.transformer, rows=6)
    assert torch.equal(draw(pipeline, "FluxPipeline"), before)


def test_freed_caches_are_made_again(folder):
    pipeline, path = fast.load(diffusers.FluxPipeline, folder, progress=lambda *_: None, device=DEVICE)
    before = draw(pipeline, "FluxPipeline")
    transformer, caches = path.transformer, path.graph_caches
    assert transformer._constants
    assert INTERPRETED or all(cache.captured for cache in caches)
    assert not path.capturing
    path.free_caches()
    assert not transformer._constants
    assert not any(cache.captured for cache in caches)
    assert torch.equal(draw(pipeline, "FluxPipeline"), before)


def test_what_a_config_leaves_out_is_what_diffusers_takes():
    theirs_takes = inspect.signature(diffusers.FluxTransformer2DModel.__init__).parameters
    assert {name: theirs_takes[name].default for name in fast.DEFAULTS} == fast.DEFAULTS


def test_the_transformer_is_read_without_diffusers(folder):
    script = (
        "import sys; from pathlib import Path; from imagegen.flux import pipeline;"
        "read = pipeline.read_transformer(Path(sys.argv[1]), progress=lambda *_: None, device=sys.argv[2]);"
        "pipeline.warm(read.module, 4, 7);"
        "assert not {'diffusers', 'transformers', 'accelerate'} & sys.modules.keys(), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, str(folder), DEVICE], check=True, timeout=300)


def test_it_is_made_ready_for_prompts_as_long_as_the_settings_say(monkeypatch):
    monkeypatch.setattr(fast, "read_transformer", lambda _folder, **given: given | {"apart": sys.getswitchinterval()})
    path = SimpleNamespace(info={})
    monkeypatch.setattr(fast, "load", lambda _kind, _folder, *, transformer, **_: (transformer.result(), path))
    before = sys.getswitchinterval()
    given, _ = models._read_fast(checkpoint.BUNDLED, Settings(max_sequence_length=77), lambda *_: None)
    assert given["text"] == 77
    assert given["apart"] < before == sys.getswitchinterval()


@pytest.mark.parametrize("kind", TASKS[3:])
def test_fill_and_kontext_run_on_it_unchanged(folder, kind):
    def pipeline():
        from_disk = theirs(folder)
        if kind == "FluxFillPipeline":  # it takes the masked image and the mask beside the noise
            torch.manual_seed(0)
            config = {**from_disk.transformer.config, "in_channels": 384, "out_channels": 64}
            filling = diffusers.FluxTransformer2DModel.from_config(config)
            from_disk.register_modules(transformer=filling.to(DEVICE, torch.bfloat16))
        return from_disk

    accelerated = pipeline()
    fast.replace_modules(accelerated, device=DEVICE)
    # One VAE for all three: each rounds its own way, ours in the interpreter twice as far. test_vae compares them.
    accelerated.register_modules(vae=theirs(folder).vae)
    hold_together(kind, *(draw(each, kind) for each in (accelerated, pipeline(), widened(pipeline()))))


def test_a_lora_that_was_fused_draws_the_same(folder, tmp_path):
    from peft import LoraConfig, get_peft_model_state_dict

    adapted = theirs(folder)
    layers = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "proj_mlp", "proj_out", "ff.net.2", "norm1.linear"]
    torch.manual_seed(1)
    adapted.transformer.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=layers, init_lora_weights=False))
    adapted.save_lora_weights(tmp_path, transformer_lora_layers=get_peft_model_state_dict(adapted.transformer))

    def with_lora():
        pipeline = theirs(folder)
        pipeline.load_lora_weights(tmp_path)
        return pipeline

    accelerated = with_lora()
    accelerated.fuse_lora()
    fast.replace_modules(accelerated, device=DEVICE)
    bf16 = draw(with_lora(), "FluxPipeline")
    hold_together("LoRA", draw(accelerated, "FluxPipeline"), bf16, draw(widened(with_lora()), "FluxPipeline"))
    assert psnr(bf16, draw(theirs(folder), "FluxPipeline")).mean() < 25  # it does change the picture


@pytest.mark.skipif(INTERPRETED, reason="needs the GPU's fp8 product")
def test_fp8_draws_nearly_the_same(folder):
    near = psnr(draw(ours(folder, precision="fp8"), "FluxPipeline"), draw(theirs(folder), "FluxPipeline"))
    print(f"fp8: to diffusers' bf16 {near.mean():.1f} dB")
    assert near.min() > 15


def test_a_file_that_is_cut_off_is_named(folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (weights,) = (broken / "transformer").glob("*.safetensors")
    with weights.open("rb+") as file:
        file.truncate(weights.stat().st_size - 1000)
    with pytest.raises(EOFError, match="weight file ends within"):
        ours(broken)
