"""The check of the machine and the choice of a memory plan."""

from types import SimpleNamespace
from typing import Any

import pytest

from imagegen import memory
from imagegen.errors import NodeTooSmall
from imagegen.memory import Gpu, GpuRequirements

GIB = 1 << 30
FLUX = {"transformer": 23_800_000_000, "text_encoder_2": 9_500_000_000, "text_encoder": 250_000_000, "vae": 170_000_000}
FLUX_FP8 = {**FLUX, "transformer": FLUX["transformer"] // 2}
SDXL = {"unet": 5_140_000_000, "text_encoder": 250_000_000, "text_encoder_2": 1_390_000_000, "vae": 170_000_000}


# Memory as the driver reports it for GPUs advertised with 80, 48, 40, 24, 16, 12 and 8 GB.
@pytest.mark.parametrize(
    ("weights", "gib", "plan"),
    [
        (FLUX, 139.8, "resident"),
        (FLUX, 79.1, "resident"),
        (FLUX, 47.4, "resident"),
        (FLUX, 44.4, "resident"),
        (FLUX, 39.4, "resident"),
        (FLUX, 31.4, "offload"),
        (FLUX, 23.6, "stream"),
        (FLUX, 11.8, "stream"),
        (FLUX_FP8, 31.4, "resident"),
        (FLUX_FP8, 23.6, "offload"),
        (SDXL, 23.6, "resident"),
        (SDXL, 15.7, "resident"),
        (SDXL, 11.8, "offload"),
        (SDXL, 7.8, "stream"),
    ],
)
def test_plans(weights: Any, gib: float, plan: str) -> None:
    assert memory.choose_plan(int(gib * GIB), weights) == plan


@pytest.mark.parametrize(
    ("advertised", "gib"), [(80, 79.1), (48, 44.4), (40, 39.4), (24, 22.0), (24, 23.6), (16, 14.6), (141, 139.8)]
)
def test_a_gpu_reports_less_than_its_advertised_memory(advertised: int, gib: float) -> None:
    memory.check([Gpu("some", int(gib * GIB))], GpuRequirements(1, advertised))


@pytest.mark.parametrize("found", [[], [Gpu("RTX 4090", 24 * GIB)]])
def test_a_small_node_is_refused_with_a_list_of_its_gpus(found: list[Any]) -> None:
    with pytest.raises(NodeTooSmall, match=r"1 GPU.s. with 80 GB each") as error:
        memory.check(found, GpuRequirements(1, 80))
    assert ("RTX 4090 (24 GB)" if found else "none") in str(error.value)
    assert ("IMAGEGEN_MEMORY=auto" in str(error.value)) == bool(found)
    assert ("IMAGEGEN_MODEL=bundled" in str(error.value)) == (not found)


def test_each_gpu_counts() -> None:
    pair = [Gpu("big", 80 * GIB), Gpu("small", 8 * GIB)]
    memory.check(pair, GpuRequirements(1, 80))
    with pytest.raises(NodeTooSmall):
        memory.check(pair, GpuRequirements(2, 80))
    memory.check(pair, GpuRequirements(2, 8))


@pytest.mark.parametrize("parts", [{}, {"vae": object()}, {"movq": object()}])
def test_a_plan_needs_no_vae(parts: dict[str, object]) -> None:
    """DeepFloyd IF has no VAE, and Kandinsky calls it differently."""
    moved = []
    pipeline = SimpleNamespace(enable_model_cpu_offload=lambda: moved.append("offload"), **parts)
    memory.apply_plan(pipeline, "offload")
    assert moved == ["offload"]
