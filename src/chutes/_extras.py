"""Optional dependencies: the extra of this distribution that installs a missing module."""

from importlib.util import find_spec

DISTRIBUTION = "chutes-selfhosted"
_MODULES_BY_EXTRA = {
    "deploy": {"ray", "yaml"},
    "imagegen": {
        "PIL",
        "accelerate",
        "diffusers",
        "huggingface_hub",
        "numpy",
        "peft",
        "safetensors",
        "sentencepiece",
        "torch",
        "transformers",
    },
}


def is_installed(module: str) -> bool:
    """Return whether a top-level module can be imported, without importing it."""
    return find_spec(module) is not None


def install_hint(module: str) -> str:
    """Return a sentence with the command that installs a module, or an empty string if no extra contains it."""
    for extra, modules in _MODULES_BY_EXTRA.items():
        if module.partition(".")[0] in modules:
            return f"Install it with `pip install '{DISTRIBUTION}[{extra}]'`."
    return ""


def import_hint(error: BaseException) -> str:
    """Return a space and the install hint for a missing module, or an empty string for another error."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None or DISTRIBUTION in str(error):
        return ""  # a message that names the distribution contains a hint already
    hint = install_hint(error.name)
    return f" {hint}" if hint else ""
