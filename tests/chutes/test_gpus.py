import pytest

from chutes._gpus import Gpu, identify_gpu, installed_gpus


def test_installed_gpus_have_memory() -> None:
    assert all(gpu.vram_gb > 0 for gpu in installed_gpus())


@pytest.mark.parametrize(
    ("name", "mib", "gpu"),
    [
        ("NVIDIA H200", 143771, Gpu("h200", 141)),
        ("NVIDIA H100 80GB HBM3", 81559, Gpu("h100_sxm", 80)),
        ("NVIDIA L4", 23034, Gpu("l4", 24)),  # with ECC
        ("NVIDIA H100 80GB HBM3", 40192, Gpu("h100_sxm", 40)),  # a MIG slice
        ("NVIDIA GeForce RTX 9999", 32607, Gpu("geforce_rtx_9999", 32)),
    ],
)
def test_a_gpu_has_its_advertised_memory(name: str, mib: int, gpu: Gpu) -> None:
    assert identify_gpu(name, mib * 1024**2) == gpu
