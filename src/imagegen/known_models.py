"""The table of known models, and the choice of a loaded model's profile.

A profile comes from three sources, each of which overrides the one before:

1. the signature of the pipeline's `__call__` and the configuration of its components;
2. the row of `_ROWS` that fits the model;
3. the key `profile` of `imagegen.json` in the model's folder.
"""

import inspect
from collections.abc import Container, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from imagegen.errors import LoadError
from imagegen.limits import MAX_SIDE, MIN_SIDE
from imagegen.profile import DEFAULT_SIDE, FLUX_DEV, TRUE_CFG, Bounds, Profile, Sizes

_TOKENIZERS = ("tokenizer_4", "tokenizer_3", "tokenizer_2", "tokenizer")  # the first that exists reads the whole prompt


class _Row(NamedTuple):
    """A model family, with values that its pipelines do not have."""

    name: str
    classes: tuple[str, ...]
    """The pipeline classes of the family."""
    values: dict[str, Any]
    """Fields of the profile."""
    named: str = ""
    """Text that the model's name contains, in lower case."""
    config: Mapping[str, object] = MappingProxyType({})
    """Values of the pipeline's configuration, or of a component's, such as `transformer.guidance_embeds`."""

    def fits(self, pipeline: Any, model: str) -> bool:
        """Return whether the row describes this model."""
        return (
            type(pipeline).__name__ in self.classes
            and self.named in model.lower()
            and all(_configured(pipeline, key) == value for key, value in self.config.items())
        )


_MEGAPIXEL = 1024**2
_FEW_STEPS = Bounds(4, 1, 50)
_GUIDANCE_OFF = Bounds(0, 0, 20)  # of the field `guidance`: off by default, but a request may turn it on

_SD = "StableDiffusionPipeline", "StableDiffusionInpaintPipeline"
_SD_3 = ("StableDiffusion3Pipeline",)
_SDXL = "StableDiffusionXLPipeline", "StableDiffusionXLInpaintPipeline"
_ANY_SIZE = Sizes()
_FLEXIBLE = Sizes(min_area=_MEGAPIXEL // 4, max_area=4 * _MEGAPIXEL)
_FLUX_2 = {"max_images": 4, "sizes": _FLEXIBLE}
_QWEN = {"blank_negative": " ", "sizes": _FLEXIBLE}

# The first row that fits a model describes it.
_ROWS = (
    _Row(
        "FLUX.1-schnell",
        ("FluxPipeline",),
        {
            "steps": _FEW_STEPS,
            "guidance": None,
            "true_cfg": TRUE_CFG,
            "sizes": _ANY_SIZE,
            "tokens": 256,
            "all_tasks_work": True,
        },
        config={"transformer.guidance_embeds": False},
    ),
    _Row("FLUX.1-dev", ("FluxPipeline",), vars(FLUX_DEV)),
    _Row(
        "FLUX.1-Fill",
        ("FluxFillPipeline",),
        {"guidance": Bounds(30, 1, 100), "guidance_off": None, "strength": Bounds(1, 0.1, 1), "sizes": _ANY_SIZE},
    ),
    _Row(
        "FLUX.1-Kontext",
        ("FluxKontextPipeline",),
        {"guidance_off": None, "true_cfg": TRUE_CFG, "sizes": Sizes(min_area=_MEGAPIXEL, max_area=_MEGAPIXEL)},
    ),
    _Row("FLUX.2-dev", ("Flux2Pipeline",), {"guidance_off": None, **_FLUX_2}),
    _Row(
        "FLUX.2-klein",
        ("Flux2KleinPipeline",),
        {"steps": _FEW_STEPS, "guidance": None, **_FLUX_2},
        config={"is_distilled": True},
    ),
    _Row("FLUX.2-klein-base", ("Flux2KleinPipeline",), _FLUX_2),
    _Row("Qwen-Image-Edit-Plus", ("QwenImageEditPlusPipeline",), {"max_images": 3, **_QWEN}),
    _Row("Qwen-Image", ("QwenImagePipeline", "QwenImageEditPipeline"), _QWEN),
    _Row(
        "Z-Image-Turbo",
        ("ZImagePipeline",),
        {"steps": Bounds(9, 1, 50), "guidance": _GUIDANCE_OFF, "guidance_off": 0, "sizes": _FLEXIBLE},
        named="turbo",
    ),
    _Row("Z-Image", ("ZImagePipeline",), {"guidance_off": 0, "sizes": _FLEXIBLE}),
    _Row("Krea 2", ("Krea2Pipeline",), {"guidance_off": 0}),
    _Row("Chroma", ("ChromaPipeline",), {"sizes": _ANY_SIZE}),
    _Row("SDXL-Turbo", _SDXL, {"steps": _FEW_STEPS, "guidance": _GUIDANCE_OFF}, named="turbo"),
    _Row("SDXL", _SDXL, {"steps": Bounds(30, 1, 100)}),
    _Row("Stable Diffusion", _SD, {"steps": Bounds(30, 1, 100)}),
    _Row("Stable Diffusion 3.5 Turbo", _SD_3, {"steps": _FEW_STEPS, "guidance": _GUIDANCE_OFF}, named="turbo"),
    _Row("Stable Diffusion 3.5", _SD_3, {"guidance": Bounds(4.5, 0, 20)}),
)


def find_profile(pipeline: Any, description: Mapping[str, Any], *, model: str, tokens: int | None = None) -> Profile:
    """Return the profile of a loaded pipeline.

    Args:
        pipeline: The pipeline.
        description: The contents of `imagegen.json`. Its key `profile` has the names of the profile's fields. For a
            field with bounds, a number replaces the default; a list replaces default, minimum and maximum.
            `steps` apply to all routes. Values that `sizes` leaves out stay the model's.
            Its key `native_size` is the longer side of every image that the model generates.
        model: The model's name.
        tokens: The number of tokens to which a prompt is padded or truncated; None means the model's own.

    Raises:
        LoadError: A value of `imagegen.json` cannot be used.
    """
    profile = _from_pipeline(pipeline)
    if row := next((row for row in _ROWS if row.fits(pipeline, model)), None):
        profile = replace(profile, **{**row.values, "name": row.name})
    most = getattr(main_tokenizer(pipeline), "model_max_length", 512)
    profile = replace(
        profile,
        tokens=min(tokens or profile.tokens, most),
        sizes=replace(
            profile.sizes,
            multiple=2 * getattr(pipeline, "vae_scale_factor", 8),  # two latent pixels make one patch
            longest_side=_longest_side(description),
        ),
    )
    return _override(profile, description.get("profile") or {})


def _longest_side(description: Mapping[str, Any]) -> int | None:
    side = description.get("native_size")
    if side is not None and (not isinstance(side, int) or not MIN_SIDE <= side <= MAX_SIDE):
        raise LoadError(f"imagegen.json: native_size must be from {MIN_SIDE} to {MAX_SIDE} pixels; got {side!r}.")
    return side


def main_tokenizer(pipeline: Any) -> Any | None:
    """Return the tokenizer that reads the whole prompt, not only its beginning; None if a pipeline has none."""
    found = next((each for name in _TOKENIZERS if (each := getattr(pipeline, name, None))), None)
    return getattr(found, "tokenizer", found)  # a processor has one inside


def _from_pipeline(pipeline: Any) -> Profile:
    """Return the profile that a pipeline's signature and configuration describe."""
    parameters = inspect.signature(type(pipeline).__call__).parameters
    defaults = {name: each.default for name, each in parameters.items() if isinstance(each.default, int | float)}
    # A pipeline with both uses `guidance_scale` for distilled guidance, unless it turns true CFG on by default.
    argument = "true_cfg_scale" if defaults.get("true_cfg_scale", 1) > 1 else "guidance_scale"
    guidance = defaults.get(argument)
    width, height = size = _default_size(pipeline, defaults)
    least, largest = (0.25, 2) if getattr(pipeline, "transformer", None) is not None else (0.5, 1.5)  # U-Net
    return Profile(
        type(pipeline).__name__,
        steps=Bounds(defaults.get("num_inference_steps", 28), 1, 100),
        guidance=None if guidance is None else Bounds(guidance, 0, 20),
        guidance_argument=argument,
        size=size,
        sizes=Sizes(min_area=int(least * width * height), max_area=int(largest * width * height)),
        tokens=int(defaults.get("max_sequence_length", 512)),
    )


def _default_size(pipeline: Any, defaults: Mapping[str, float]) -> tuple[int, int]:
    """Return the width and height in pixels for which a model was made."""
    scale = getattr(pipeline, "vae_scale_factor", 8)
    for key in ("unet.sample_size", "transformer.sample_size"):
        match _configured(pipeline, key):
            case int(side):
                return side * scale, side * scale
            case [int(height), int(width)]:
                return width * scale, height * scale
    latent = getattr(pipeline, "default_sample_size", None)
    side = latent * scale if isinstance(latent, int) else DEFAULT_SIDE
    return int(defaults.get("width", side)), int(defaults.get("height", side))


def _configured(pipeline: Any, key: str) -> object:
    """Return a value of a pipeline's configuration, or of a component's; None if it has none."""
    component, _, name = key.rpartition(".")
    owner = getattr(pipeline, component, None) if component else pipeline
    return getattr(getattr(owner, "config", None), name, None)


_HIGHEST = {"strength": 1}  # of `_check_ranges`


def _override(profile: Profile, overrides: Mapping[str, Any]) -> Profile:
    """Return a profile with the values of `imagegen.json`. Raises LoadError if one of them cannot be used."""
    if not overrides:
        return profile
    if not isinstance(overrides, Mapping):
        raise LoadError(f"imagegen.json: profile must be an object; got {overrides!r}.")
    values: dict[str, Any] = {**vars(profile)}
    if "steps" in overrides:
        values["route_steps"] = {}  # those of the table would hide the file's
    for name, value in overrides.items():
        _check_name(name, vars(profile), "profile")
        old = values[name]
        if isinstance(old, Bounds) and isinstance(value, int | float):
            values[name] = [value, min(old.minimum, value), max(old.maximum, value)]
        elif isinstance(old, Sizes) and isinstance(value, Mapping):
            for each in value:
                _check_name(each, vars(old), "profile.sizes")
            values[name] = {**vars(old), **value}
        else:
            values[name] = value
    try:
        changed = TypeAdapter(Profile).validate_python(values)
    except ValidationError as error:
        wrong = error.errors()[0]
        place = ".".join(map(str, wrong["loc"]))
        raise LoadError(f"imagegen.json: profile.{place} is {wrong['input']!r}: {wrong['msg']}.") from None
    _check_ranges(changed, overrides)
    return changed


def _check_ranges(profile: Profile, changed: Container[str]) -> None:
    """Raise LoadError if a number of `imagegen.json` is one that no model can use.

    Some models are made for sizes that no request can have, which does not matter until the file changes it.
    """
    bounds = {
        "steps": (1, profile.steps),
        **{f"route_steps.{route}": (1, each) for route, each in profile.route_steps.items()},
        "guidance": (0, profile.guidance),
        "true_cfg": (0, profile.true_cfg),
        "strength": (0.01, profile.strength),
    }
    for name, (lowest, each) in bounds.items():
        if each and not lowest <= each.minimum <= each.default <= each.maximum <= _HIGHEST.get(name, 1000):
            values = [each.default, each.minimum, each.maximum]
            raise LoadError(
                f"imagegen.json: profile.{name} must be [default, minimum, maximum], in order and from {lowest:g} to "
                f"{_HIGHEST.get(name, 1000)}; got {values}."
            )
    sizes = profile.sizes
    least = {"tokens": profile.tokens, "sizes.multiple": sizes.multiple, "max_images": profile.max_images}
    least |= {"sizes.min_area": sizes.min_area or 1, "sizes.max_area": sizes.max_area or 1}
    for name, value in least.items():
        if value < 1:
            raise LoadError(f"imagegen.json: profile.{name} must be at least 1; got {value}.")
    if "size" in changed and not all(MIN_SIDE <= side <= MAX_SIDE for side in profile.size):
        raise LoadError(
            f"imagegen.json: profile.size must be from {MIN_SIDE} to {MAX_SIDE} pixels; got {list(profile.size)}."
        )
    if (sizes.min_area or 0) > (sizes.max_area or MAX_SIDE**2):
        raise LoadError(f"imagegen.json: profile.sizes.min_area must be at most max_area; got {sizes.min_area}.")


def _check_name(name: str, known: Mapping[str, Any], owner: str) -> None:
    if name not in known:
        raise LoadError(f"imagegen.json: {owner} has no field {name!r}. Its fields are: {', '.join(known)}.")
