"""The channels-last VAE computes the same as diffusers', and each of its kernels the same as float64, at odd sizes."""

import os
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from torch.nn import functional

from imagegen.flux import vae
from imagegen.flux.kernels import vae as kernels

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
BF16 = 2**-8 * (2 if INTERPRETED else 1)  # one rounding costs at most this; the interpreter truncates
SHAPES = [(1, 32, 5, 3), (2, 64, 17, 9), (1, 512, 8, 8)] + ([] if INTERPRETED else [(1, 128, 520, 136)])


GROUPS = 2 if INTERPRETED else 32  # of a GroupNorm; the interpreter takes milliseconds a group


def image(batch: int, channels: int, height: int, width: int) -> torch.Tensor:
    values = torch.randn(batch, channels, height, width, device=DEVICE).to(torch.bfloat16)
    return values.contiguous(memory_format=torch.channels_last)


def vector(channels: int) -> torch.Tensor:
    return torch.randn(channels, device=DEVICE).to(torch.bfloat16)


def close(out: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool(torch.isfinite(out.float()).all() and (out.double() - expected).norm() < BF16 * expected.norm())


def autoencoder(*widths: int) -> AutoencoderKL:
    model = AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=GROUPS,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)  # not zero, so that a missing bias is noticed
    return model.to(DEVICE).eval()


@pytest.mark.parametrize("widths", [(32, 64, 64), (32, 96, 96)])
@torch.inference_mode()
@torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
def test_images_and_latents_are_those_of_diffusers(widths: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    height, width = (3, 2) if INTERPRETED else (10, 6)  # of latents
    monkeypatch.setattr(vae, "_MAX_SCORES", 4 * height * width)  # so that attention takes several parts
    model = autoencoder(*widths)
    image = torch.randn(2, 3, 4 * height, 4 * width, device=DEVICE)
    latents = torch.randn(2, 16, height, width, device=DEVICE)
    expected = model.encode(image).latent_dist.mean, model.decode(latents).sample
    vae.to_channels_last(model)
    ours = model.encode(image).latent_dist.mean, model.decode(latents).sample
    for out, reference in zip(ours, expected, strict=True):
        assert torch.linalg.norm(out - reference) < 1e-3 * torch.linalg.norm(reference)


@torch.inference_mode()
def test_a_size_is_prepared_once_for_exactly_the_layers_that_decode_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = autoencoder(32, 64, 64)
    warmup = vae.to_channels_last(model)
    conv2d, seen, attended = functional.conv2d, [], []
    (attention,) = model.decoder.mid_block.attentions
    attention.register_forward_pre_hook(lambda _layer, given: attended.append((given[0].shape, given[0].stride())))

    def spied(x: Any, weight: Any, *given: Any, **named: Any) -> Any:
        seen.append((x.shape, x.stride(), weight.shape))
        return conv2d(x, weight, *given, **named)

    monkeypatch.setattr(functional, "conv2d", spied)
    parts = sum(1 for _ in warmup(8, 12))
    prepared = set(seen)
    assert len(prepared) == len(seen) == parts - len(attended)
    seen.clear()
    model.decode(torch.randn(1, 16, 3, 2, device=DEVICE).contiguous(memory_format=torch.channels_last))
    assert set(seen) == prepared
    assert attended == attended[:1] * 2
    assert not [*warmup(8, 12)]


@torch.inference_mode()
@torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
def test_as_exact_as_diffusers_in_bf16() -> None:
    reference = autoencoder(32, 64, 64)
    latents = torch.randn(1, 16, *((3, 2) if INTERPRETED else (10, 6)), device=DEVICE).to(torch.bfloat16)
    expected = reference.decode(latents.float()).sample
    theirs = reference.to(torch.bfloat16)
    diffusers = torch.linalg.norm(theirs.decode(latents).sample - expected)
    vae.to_channels_last(theirs)
    ours = torch.linalg.norm(theirs.decode(latents).sample - expected)
    print(f"error / diffusers' error: {float(ours / diffusers):.2f}")
    assert ours <= (2.5 if INTERPRETED else 1.05) * diffusers


@pytest.mark.parametrize(("shape", "groups"), [*zip(SHAPES, [32, 4, 1, 32], strict=False)])
@pytest.mark.parametrize(("silu", "shifted"), [(True, True), (False, False)])
def test_group_norm(shape: Any, groups: int, silu: bool, shifted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_PROGRAMS", 2)  # so that each program has several blocks of pixels
    x, weight, bias, shift = image(*shape) + 5, vector(shape[1]), vector(shape[1]), vector(shape[1]) * shifted
    given = x.double() + shift.double()[:, None, None]
    expected = functional.group_norm(given, groups, weight.double(), bias.double(), eps=1e-6)
    out = kernels.group_norm(x, groups, weight, bias, shift, silu=silu)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert close(out, functional.silu(expected) if silu else expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("both", [True, False])
def test_add(shape: Any, both: bool) -> None:
    x, bias, y = image(*shape), vector(shape[1]), image(*shape)
    expected = x.double() + bias.double()[:, None, None] + (y.double() if both else 0)
    assert kernels.add_(x, bias, y if both else None).data_ptr() == x.data_ptr()
    assert close(x, expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_upsample(shape: Any) -> None:
    x = image(*shape)
    out = kernels.upsample(x)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(out, functional.interpolate(x, scale_factor=2.0, mode="nearest"))


@pytest.mark.parametrize(("rows", "length"), [(3, 60), (2, 4096), (5, 9001)])
def test_softmax(rows: int, length: int) -> None:
    scores = torch.randn(rows, length, device=DEVICE) * 90
    out = kernels.softmax(scores, 0.1, torch.bfloat16)
    assert close(out, (scores.double() * 0.1).softmax(dim=-1))
