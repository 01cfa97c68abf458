"""Generate images with diffusion models.

    model = imagegen.load("bundled")
    engine = imagegen.Engine(model)
    engine.start()
    picture = await engine.generate(imagegen.Request("a red apple", seed=7))
    picture.image.save("apple.png")
    engine.stop()

`load` loads a model. An `Engine` owns the GPU and generates one image at a time. A `Request` says what to generate, and
a `Picture` is the result: the image and its metadata. `imagegen.errors` holds the errors; `imagegen.http` serves images
from a chute. Names are imported on first use, so `import imagegen` is fast and needs none of the extra's packages.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagegen.engine import Engine
    from imagegen.errors import (
        EngineFailed,
        EngineStopped,
        ImagegenError,
        ImageRejected,
        ImageTooLarge,
        InputError,
        LoadError,
        MissingExtra,
        NodeTooSmall,
        NotFinite,
        OutOfMemory,
        Unsupported,
        WeightsMissing,
    )
    from imagegen.models import Model, load
    from imagegen.picture import Picture
    from imagegen.request import Request

__all__ = [
    "Engine",
    "EngineFailed",
    "EngineStopped",
    "ImageRejected",
    "ImageTooLarge",
    "ImagegenError",
    "InputError",
    "LoadError",
    "MissingExtra",
    "Model",
    "NodeTooSmall",
    "NotFinite",
    "OutOfMemory",
    "Picture",
    "Request",
    "Unsupported",
    "WeightsMissing",
    "load",
]

_MODULES = {"Engine": "engine", "Model": "models", "Picture": "picture", "Request": "request", "load": "models"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"{__name__}.{_MODULES.get(name, 'errors')}")
    except ModuleNotFoundError as error:
        from imagegen.errors import MissingExtra

        package = (error.name or "").partition(".")[0]
        if package == __name__:
            raise
        raise MissingExtra(
            f"imagegen needs the package {package}. Install it with: pip install 'chutes-selfhosted[imagegen]'",
            name=error.name,
        ) from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return __all__
