"""The transformer is as exact as diffusers' own, at several shapes and in every precision."""

import itertools
import os
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel

from imagegen.flux.model import FluxTransformer
from imagegen.flux.weights import copy_state

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
SCHEDULES = (1, 2, 1) if INTERPRETED else (3, 5, 3)
LAYERS = (2, 2) if INTERPRETED else (2, 3)  # two of each, because a block reads the gate of the block before it


class Schedule:
    """The part of a scheduler that the transformer reads."""

    def __init__(self, steps: int) -> None:
        # 1000, 500, 250, … are exact in bf16, so that every path embeds the same time.
        self.timesteps = 1000 * 0.5 ** torch.arange(steps, device=DEVICE)


def small(*, guidance: bool, heads: int = 4, dim: int = 64, layers: tuple[int, int] = LAYERS) -> FluxTransformer2DModel:
    torch.manual_seed(0)
    model = FluxTransformer2DModel(
        in_channels=64, num_layers=layers[0], num_single_layers=layers[1],
        attention_head_dim=dim, num_attention_heads=heads,
        joint_attention_dim=96, pooled_projection_dim=48, guidance_embeds=guidance,
        axes_dims_rope=(dim // 8, dim * 7 // 16, dim * 7 // 16),
    )  # fmt: skip
    for parameter in model.parameters():
        # Values as large as in a trained model, so that every term of a sum counts.
        torch.nn.init.normal_(parameter, std=1.2 / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.5)
    return model.eval().to(DEVICE)


def inputs(model: FluxTransformer2DModel, batch: int, rows: tuple[int, int], text: int) -> dict[str, torch.Tensor]:
    ids = torch.zeros(*rows, 3, device=DEVICE)
    ids[..., 1] = torch.arange(rows[0], device=DEVICE)[:, None]
    ids[..., 2] = torch.arange(rows[1], device=DEVICE)[None]
    config = model.config
    given = {
        "hidden_states": torch.randn(batch, rows[0] * rows[1], config.in_channels, device=DEVICE),
        "encoder_hidden_states": torch.randn(batch, text, config.joint_attention_dim, device=DEVICE),
        "pooled_projections": torch.randn(batch, config.pooled_projection_dim, device=DEVICE),
        "img_ids": ids.view(-1, 3),
        "txt_ids": torch.zeros(text, 3, device=DEVICE),
    }
    if config.guidance_embeds:
        given["guidance"] = torch.full([batch], 4.0, device=DEVICE)  # times 1000 exact in bf16
    return given


def relative(out: torch.Tensor, reference: torch.Tensor) -> float:
    return float((out.float() - reference).norm() / reference.norm())


@pytest.mark.parametrize(
    ("guidance", "batch", "rows", "text"),
    # The interpreter's time is proportional to the number of rows.
    [(True, 1, (2, 3), 3), (False, 2, (1, 3), 2)] if INTERPRETED else [(True, 1, (6, 5), 7), (False, 3, (4, 9), 16)],
)
@torch.inference_mode()
def test_as_exact_as_diffusers_in_bf16(guidance: bool, batch: Any, rows: Any, text: Any) -> None:
    reference = small(guidance=guidance)
    model = FluxTransformer(reference.config, device=DEVICE)
    copy_state(model, reference.state_dict())
    schedule = Schedule(2 if INTERPRETED else 4)
    model.bind_scheduler(schedule)
    given = inputs(reference, batch, rows, text)
    rounded = {name: value.to(torch.bfloat16) if value.ndim == 3 else value for name, value in given.items()}
    rounded["pooled_projections"] = rounded["pooled_projections"].to(torch.bfloat16)
    theirs = small(guidance=guidance).to(torch.bfloat16)

    for time in schedule.timesteps:
        timestep = (time.expand(batch).to(torch.bfloat16)) / 1000
        expected = reference(**given, timestep=timestep.float(), return_dict=False)[0]
        ours = relative(model(**rounded, timestep=timestep, return_dict=False)[0], expected)
        diffusers = relative(theirs(**rounded, timestep=timestep, return_dict=False)[0], expected)
        print(f"relative error: ours {ours:.2e}, diffusers' bf16 {diffusers:.2e}")
        assert ours <= (1.5 if INTERPRETED else 1.05) * diffusers


@torch.inference_mode()
def test_constants_belong_to_their_image() -> None:
    reference = small(guidance=True, **({"heads": 1, "dim": 32, "layers": (1, 1)} if INTERPRETED else {}))
    model = FluxTransformer(reference.config, device=DEVICE)
    copy_state(model, reference.state_dict())
    first, second = inputs(reference, 1, (1, 2), 2), inputs(reference, 1, (1, 3), 1)
    alone = {
        (which, index): model(**given, timestep=time[None] / 1000).sample
        for which, given in enumerate((first, second))
        for index, time in enumerate(Schedule(max(SCHEDULES)).timesteps)  # a shorter schedule has the first of these
    }
    # Two images take turns while the schedule changes: each result depends on its own tensors only.
    for steps, (which, given) in itertools.product(SCHEDULES, enumerate((first, second))):
        schedule = Schedule(steps)
        model.bind_scheduler(schedule)
        for index, time in enumerate(schedule.timesteps):
            out = model(**given, timestep=time[None] / 1000).sample
            assert torch.equal(out, alone[which, index])


@pytest.mark.skipif(INTERPRETED, reason="needs the GPU's fp8 matmul")
@pytest.mark.parametrize("fp8_attention", [False, True])
@torch.inference_mode()
def test_fp8_is_close_to_float32(fp8_attention: bool) -> None:
    reference = small(guidance=True, heads=8, dim=128)
    model = FluxTransformer(reference.config, fp8=True, fp8_attention=fp8_attention)
    copy_state(model, reference.state_dict())
    given = inputs(reference, 2, (12, 9), 21)
    timestep = torch.full([2], 0.5, device=DEVICE)
    expected = reference(**given, timestep=timestep, return_dict=False)[0]
    out, replayed = (model(**given, timestep=timestep, return_dict=False)[0] for _ in range(2))
    assert torch.equal(out, replayed)
    error = relative(out, expected)
    print(f"relative error in fp8{' with fp8 attention' if fp8_attention else ''}: {error:.2e}")
    assert error < 0.1


def test_weights_of_another_architecture_are_refused() -> None:
    model = FluxTransformer(small(guidance=False).config, device=DEVICE)
    with pytest.raises(ValueError, match="not of this FLUX architecture"):
        copy_state(model, small(guidance=True).state_dict())


def test_attention_adapters_are_refused() -> None:
    reference = small(guidance=False)
    model = FluxTransformer(reference.config, device=DEVICE)
    with pytest.raises(ValueError, match="adapters"):
        model(
            **inputs(reference, 1, (2, 2), 3),
            timestep=torch.ones(1),
            joint_attention_kwargs={"ip_hidden_states": 1},
        )
