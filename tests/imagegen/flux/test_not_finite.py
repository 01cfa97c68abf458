"""The fast path's kernels and fp8 matmuls propagate NaN and infinite values, so that the image is refused."""

import os
from typing import Any

import diffusers
import pytest
import torch

from imagegen import checkpoint, models
from imagegen.canvas import Canvas
from imagegen.errors import NotFinite
from imagegen.flux import pipeline as fast
from imagegen.flux.attention import flash_attention_3
from imagegen.flux.kernels.rope import norm_rope
from imagegen.request import Request
from imagegen.sampling import sample
from imagegen.settings import Settings
from tests.imagegen import tiny

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning",
    "ignore::UserWarning",
    "ignore::RuntimeWarning",  # numpy's, of Triton's interpreter
)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
SIDE, STEPS = (32, 1) if INTERPRETED else (256, 2)
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module", params=["bf16", "fp8", "fp8+attention"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model on the fast path; a test that damages it repairs it."""
    precision = request.param
    if precision != "bf16" and (INTERPRETED or torch.cuda.get_device_capability() < (8, 9)):
        pytest.skip("needs the GPU's fp8 matmul")
    if precision == "fp8+attention" and flash_attention_3() is None:
        pytest.skip("needs FlashAttention-3")
    folder = tiny.write(tmp_path_factory.mktemp("flux") / "tiny") if INTERPRETED else checkpoint.BUNDLED
    kind = diffusers.FluxPipeline
    pipeline, path = fast.load(kind, folder, precision=precision, progress=lambda *_: None, device=DEVICE)
    settings = Settings(max_sequence_length=3, precision=precision) if INTERPRETED else Settings(precision=precision)
    files = models._ModelFiles(folder, "folder", "flux", {}, {})
    return models._assemble(files, pipeline, path, settings, None if INTERPRETED else "resident")


def image(model: Any) -> Any:
    size = SIDE, SIDE
    canvas = Canvas(size, size, size)
    return sample(model, Request("a cat", seed=1), canvas, steps=STEPS, after_step=lambda *_: None).tobytes()


WEIGHTS = [
    ("transformer.image_in.weight", NAN),
    ("transformer.double_blocks.0.image.qkv.bias", NAN),  # at its end that of v
    ("vae.decoder.conv_out.bias", INF),
]
if not INTERPRETED:
    WEIGHTS += [
        ("transformer.double_blocks.0.text.down.bias", INF),
        ("transformer.single_blocks.0.qkv.bias", NAN),
        ("transformer.single_blocks.0.up.bias", INF),
        ("transformer.image_out.bias", INF),
        ("text_encoder_2.encoder.encoder.final_layer_norm.weight", NAN),
        ("vae.decoder.conv_in.bias", NAN),
    ]


@pytest.mark.parametrize(("weight", "value"), WEIGHTS)
def test_damaged_weights_are_an_error(model: models.Model, weight: Any, value: Any) -> None:
    component, _, name = weight.partition(".")
    last = getattr(model.pipeline, component).get_parameter(name).detach().view(-1)[-1:]
    kept = last.clone()
    last.fill_(value)
    with pytest.raises(NotFinite):
        image(model)
    last.copy_(kept)


@pytest.mark.skipif(INTERPRETED, reason="takes long without a GPU")
def test_the_repaired_model_draws_the_same_image(model: models.Model) -> None:
    before = image(model)
    test_damaged_weights_are_an_error(model, *WEIGHTS[0])
    assert image(model) == before


@pytest.mark.parametrize(
    "fp8",
    [False, pytest.param(True, marks=pytest.mark.skipif(INTERPRETED, reason="the interpreter's e4m3 has no NaN"))],
)
def test_nan_in_v_is_not_clamped_away(fp8: bool) -> None:
    qkv = torch.ones(1, 4, 3, 2, 32, device=DEVICE, dtype=torch.bfloat16)
    qkv[0, 1, 2, 1, 5] = NAN
    angles = torch.zeros(4, 16, device=DEVICE)
    norms = (torch.ones(32, device=DEVICE, dtype=torch.bfloat16),) * 2
    out = norm_rope(qkv, angles.cos(), angles.sin(), norms, norms, 0, fp8=fp8)
    assert out.float().isnan().nonzero().tolist() == [[0, 1, 2, 1, 5]]
