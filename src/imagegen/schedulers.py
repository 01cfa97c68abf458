"""Schedulers by name: diffusers' class names, and the short names that other image generators use."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from imagegen.errors import InputError


class _Choice(NamedTuple):
    """A scheduler class of diffusers, and its options."""

    class_name: str
    options: Mapping[str, object] = MappingProxyType({})


_KARRAS = {"use_karras_sigmas": True}
_SDE = {"algorithm_type": "sde-dpmsolver++"}
_SHORT_NAMES = {
    "ddim": _Choice("DDIMScheduler"),
    "ddpm": _Choice("DDPMScheduler"),
    "deis": _Choice("DEISMultistepScheduler"),
    "dpm++ 2m": _Choice("DPMSolverMultistepScheduler"),
    "dpm++ 2m karras": _Choice("DPMSolverMultistepScheduler", _KARRAS),
    "dpm++ 2m sde": _Choice("DPMSolverMultistepScheduler", _SDE),
    "dpm++ 2m sde karras": _Choice("DPMSolverMultistepScheduler", {**_SDE, **_KARRAS}),
    "dpm++ sde": _Choice("DPMSolverSinglestepScheduler"),
    "dpm2": _Choice("KDPM2DiscreteScheduler"),
    "dpm2 a": _Choice("KDPM2AncestralDiscreteScheduler"),
    "euler": _Choice("EulerDiscreteScheduler"),
    "euler a": _Choice("EulerAncestralDiscreteScheduler"),
    "heun": _Choice("HeunDiscreteScheduler"),
    "lms": _Choice("LMSDiscreteScheduler"),
    "pndm": _Choice("PNDMScheduler"),
    "unipc": _Choice("UniPCMultistepScheduler"),
}
_FLOW_CHOICES = _SHORT_NAMES["deis"], _SHORT_NAMES["dpm++ 2m"], _SHORT_NAMES["unipc"]


def create(own: Any, name: str | None) -> Any:
    """Return a new scheduler for one image.

    Args:
        own: The pipeline's own scheduler, whose configuration the new one gets.
        name: A class name of diffusers or a short name, in any spelling; None means the class of `own`.

    Raises:
        InputError: The model cannot use the scheduler. The message lists those that it can use.
    """
    if name is None:
        return type(own).from_config(own.config)
    choice = {normalize(each): choice for each, choice in _choices(own).items()}.get(normalize(name))
    if choice is None:
        raise unusable(own, name)
    import diffusers

    try:
        return getattr(diffusers, choice.class_name).from_config(own.config, **choice.options)
    except (ImportError, ValueError):  # it needs another package, or the model's options exclude it
        raise unusable(own, name) from None


def unusable(own: Any, name: str) -> InputError:
    """Return the error for a scheduler that a model cannot use."""
    return InputError(f"scheduler must be one of {', '.join(sorted(_choices(own)))}; got {name!r}.", field="scheduler")


def _choices(own: Any) -> dict[str, _Choice]:
    """Return the schedulers that can replace `own`, by their class names and short names."""
    own_name = type(own).__name__
    if own_name.startswith("FlowMatch"):
        # The solvers for diffusion models also solve flow models, with these options.
        flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": own.config.get("shift", 1)}
        short = {name: choice for name, choice in _SHORT_NAMES.items() if choice in _FLOW_CHOICES}
        return {
            "euler": _Choice(own_name),
            own_name: _Choice(own_name),
            **{name: _Choice(choice.class_name, flow) for name, choice in short.items()},
            **{choice.class_name: _Choice(choice.class_name, flow) for choice in short.values()},
        }
    classes = {own_name, *(each.__name__ for each in getattr(own, "compatibles", ()))}
    short = {name: choice for name, choice in _SHORT_NAMES.items() if choice.class_name in classes}
    return {**{name: _Choice(name) for name in classes}, **short}


def normalize(name: str) -> str:
    """Return the form that all spellings of a name share: lower case without spaces and punctuation, `++` as `pp`."""
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("++", "pp"))
