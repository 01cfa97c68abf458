"""Model families: tiny folders with random weights in diffusers' layout, and the facts that tests need about each.

Their modules import diffusers' pipelines, which takes seconds; so each is imported when one of its families is needed.
"""

from importlib import import_module

from tests.imagegen.families.family import Family

NAMES = {
    "flux": (
        "FLUX.1-dev",
        "FLUX.1-schnell",
        "FLUX.1-Fill-dev",
        "FLUX.1-Kontext-dev",
        "FLUX.1-Depth-dev",
        "FLUX.2-dev",
        "FLUX.2-klein",
        "Chroma",
    ),
    "stable_diffusion": (
        "stable-diffusion-v1-5",
        "stable-diffusion-v1-5-unchecked",
        "stable-diffusion-v1-5-bin",
        "stable-diffusion-2-1",
        "stable-diffusion-inpainting",
        "instruct-pix2pix",
        "LCM_Dreamshaper_v7",
        "stable-diffusion-xl-base-1.0",
        "sdxl-turbo",
        "stable-diffusion-xl-1.0-inpainting-0.1",
        "stable-diffusion-xl-refiner-1.0",
        "Kolors",
        "stable-diffusion-3.5-large",
    ),
    "qwen": (
        "Qwen-Image",
        "Qwen-Image-Edit",
        "Qwen-Image-Edit-Plus",
        "Z-Image",
        "Z-Image-Turbo",
        "Ovis-Image-7B",
        "Krea-2",
    ),
    "others": (
        "Sana_1600M_1024px",
        "Sana_Sprint_1.6B_1024px",
        "PixArt-Sigma-XL-2-1024-MS",
        "HiDream-I1-Full",
        "HunyuanDiT-v1.2",
        "Lumina-Image-2.0",
        "CogView4-6B",
        "AuraFlow-v0.3",
        "BRIA-3.2",
        "FIBO",
    ),
    "unusual": (
        "kandinsky-3",
        "IF-I-XL-v1.0",
        "kandinsky-2-2-decoder",
        "LTX-Video",
        "Wan2.1-T2V-1.3B",
    ),
}
"""The names of all families by module."""
REFUSED = ("FLUX.1-Depth-dev", "kandinsky-2-2-decoder", "LTX-Video", "Wan2.1-T2V-1.3B")
"""Those that the service must refuse."""


def find(name: str) -> Family:
    """Return the family with a name."""
    module = next(module for module, names in NAMES.items() if name in names)
    families: list[Family] = import_module(f"{__name__}.{module}").FAMILIES
    return next(family for family in families if family.name == name)
