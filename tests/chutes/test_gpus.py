import pytest

from chutes._gpus import Gpu, gpu_kind, identify_gpu, installed_gpus


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


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H100 PCIe", "h100"),
        ("NVIDIA H100 80GB HBM3", "h100_sxm"),
        ("NVIDIA H100 NVL", "h100_nvl"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA B200", "b200"),
        ("NVIDIA GB200", "gb200"),
        ("NVIDIA A100-SXM4-80GB", "a100_sxm"),
        ("NVIDIA A100 80GB PCIe", "a100"),
        ("NVIDIA A100-PCIE-40GB", "a100_40gb"),
        ("NVIDIA A100-SXM4-40GB", "a100_40gb_sxm"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L40", "l40"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA A10", "a10"),
        ("NVIDIA A10G", "a10"),
        ("NVIDIA A40", "a40"),
        ("NVIDIA RTX A6000", "a6000"),
        ("NVIDIA RTX 6000 Ada Generation", "a6000_ada"),
        ("NVIDIA RTX 4000 Ada Generation", "a4000_ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "pro_6000"),
        ("NVIDIA GeForce RTX 4090", "4090"),
        ("NVIDIA GeForce RTX 3080 Ti", None),
        ("Tesla T4", "t4"),
        ("Tesla V100-SXM2-16GB", "v100"),
        ("Tesla V100-SXM2-32GB", "v100_32gb"),
        ("AMD Instinct MI300X", "mi300x"),
        ("Apple M3", None),
    ],
)
def test_device_names(device: str, name: str | None) -> None:
    assert gpu_kind(device) == name
