"""Optional dependencies: which extra of the distribution installs a module that is missing."""

from importlib.util import find_spec

_EXTRAS = {
    "deploy": ("ray", "yaml"),
    "imagegen": (
        "accelerate",
        "diffusers",
        "huggingface_hub",
        "numpy",
        "peft",
        "PIL",
        "safetensors",
        "sentencepiece",
        "torch",
        "transformers",
    ),
}


def is_installed(module: str) -> bool:
    """Return whether a top-level module can be imported, without importing it."""
    return find_spec(module) is not None


def install_hint(module: str) -> str:
    """Return a sentence with the command that installs a module's extra, or nothing if no extra has the module."""
    top = module.partition(".")[0]
    for extra, modules in _EXTRAS.items():
        if top in modules:
            return f"Install it with `pip install 'chutes-selfhosted[{extra}]'`."
    return ""
