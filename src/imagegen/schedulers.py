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
_FLOW = "FlowMatch"  # prefix of the schedulers that solve flow models only
_SOLVERS = _SHORT_NAMES["deis"], _SHORT_NAMES["dpm++ 2m"], _SHORT_NAMES["unipc"]  # for flow models too
_OTHER_SIGMAS = {"EDMEulerScheduler"}  # compatible in name only: it scales its input for models trained with EDM


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
    choice = {_normalize(each): choice for each, choice in _choices(own).items()}.get(_normalize(name))
    if choice is None:
        raise InputError(f"scheduler must be one of {_listed(own)}; got {name!r}.", field="scheduler")
    import diffusers

    try:
        return getattr(diffusers, choice.class_name).from_config(own.config, **choice.options)
    except Exception as error:  # the options of the model exclude it, by an error of any class
        raise failed(own, name) from error


def failed(own: Any, name: str, reason: str = "") -> InputError:
    """Return the error for a scheduler that a request or a model cannot use, although its name is known."""
    others = f"Leave it out, or send one of {_listed(own, without=name)}."
    because = f": {reason}" if reason else ""
    message = f"scheduler {name!r} does not work with this model and these steps{because}. {others}"
    return InputError(message, field="scheduler")


def _listed(own: Any, *, without: str = "") -> str:
    """Return the names of the schedulers that can replace `own`, except `without`."""
    choices = _choices(own)
    excluded = next(
        (choice.class_name for name, choice in choices.items() if _normalize(name) == _normalize(without)), None
    )
    return ", ".join(sorted(name for name, choice in choices.items() if choice.class_name != excluded))


def _choices(own: Any) -> dict[str, _Choice]:
    """Return the schedulers that can replace `own`, by their class names and short names."""
    own_name = type(own).__name__
    if own_name.startswith(_FLOW) or own.config.get("prediction_type") == "flow_prediction":
        # The solvers for diffusion models also solve flow models, with these options.
        solver_shift = own.config.get("flow_shift")
        shift = own.config.get("shift", 1) if solver_shift is None else solver_shift
        flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}
        short = {name: _Choice(choice.class_name, flow) for name, choice in _SHORT_NAMES.items() if choice in _SOLVERS}
        euler = {} if solver_shift is None else {"shift": solver_shift}  # solvers have another name for it
        short["euler"] = _Choice(f"{_FLOW}EulerDiscreteScheduler", euler)
        return {**{choice.class_name: choice for choice in short.values()}, own_name: _Choice(own_name), **short}
    compatible = [each for each in getattr(own, "compatibles", ()) if each.__name__ not in _OTHER_SIGMAS]
    installed = [each for each in compatible if not hasattr(each, "_backends")]  # diffusers' stand-ins have them
    classes = {own_name, *(each.__name__ for each in installed)}
    short = {name: choice for name, choice in _SHORT_NAMES.items() if choice.class_name in classes}
    return {**{name: _Choice(name) for name in classes}, **short}


def _normalize(name: str) -> str:
    """Return the form that all spellings of a name share: lower case without spaces and punctuation, `++` as `pp`."""
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("++", "pp"))
