"""Apply a model's defaults to a request, and reject the fields that the model cannot honour."""

from collections.abc import Container
from dataclasses import replace

from imagegen.errors import InputError
from imagegen.profile import LEGACY_GUIDANCE, LEGACY_STRENGTH, Profile, Route
from imagegen.request import Request, Task

_ROUTES: dict[Task, Route] = {"text2image": "generate", "img2img": "img2img", "inpaint": "inpaint"}


def apply_defaults(request: Request, profile: Profile, accepted: Container[str]) -> Request:
    """Return the request with the model's own values for what it leaves out.

    `accepted` are the arguments of the task's pipeline. Raises InputError if the model cannot honour a field.
    """
    steps = profile.steps_on(_ROUTES[request.task]).default if request.steps is None else request.steps
    guidance, true_cfg = _guidance(request, profile, accepted)
    negative = _negative_prompt(request, profile, guidance, accepted)
    if negative and profile.true_cfg and true_cfg is None:
        true_cfg = profile.true_cfg.default
    if negative and true_cfg is not None and true_cfg <= 1:
        raise _no_effect("true_cfg_scale", 1, true_cfg)
    width, height = request.size_or(profile.size) if request.image is None else (request.width, request.height)
    return replace(
        request,
        steps=int(steps),
        guidance=guidance,
        negative_prompt=negative,
        true_cfg_scale=true_cfg if negative else None,
        strength=_strength(request, profile, accepted),
        width=width,
        height=height,
    )


def _guidance(request: Request, profile: Profile, accepted: Container[str]) -> tuple[float | None, float | None]:
    """Return the guidance scale, and that of the negative prompt if it has one of its own."""
    guidance, true_cfg = request.guidance, request.true_cfg_scale
    if profile.guidance_argument == "true_cfg_scale" and true_cfg is not None:  # a request may use either name
        if guidance not in {None, true_cfg}:
            both = f"got {true_cfg:g} and {guidance:g}. Send one of them"
            message = f"true_cfg_scale and guidance_scale are the same value for this model; {both}."
            raise InputError(message, field="true_cfg_scale")
        guidance, true_cfg = true_cfg, None
    if true_cfg is not None and profile.true_cfg is None:
        raise _not_supported("true_cfg_scale")
    if profile.guidance is None or profile.guidance_argument not in accepted:
        if guidance is not None and guidance > 1 and guidance != LEGACY_GUIDANCE:  # up to 1, guidance is off
            raise _not_supported("guidance_scale")
        return None, true_cfg
    return (profile.guidance.default if guidance is None else guidance), true_cfg


def _negative_prompt(
    request: Request, profile: Profile, guidance: float | None, accepted: Container[str]
) -> str | None:
    """Return the negative prompt; None if the request has none."""
    if not (request.negative_prompt or "").strip():
        return None
    if "negative_prompt" not in accepted:
        raise _not_supported("negative_prompt")
    if profile.true_cfg is None and profile.guidance_off is not None and (guidance or 0) <= profile.guidance_off:
        raise _no_effect("guidance_scale", profile.guidance_off, guidance or 0)
    return request.negative_prompt


def _strength(request: Request, profile: Profile, accepted: Container[str]) -> float | None:
    """Return the strength; None for pipelines that edit an image in all steps."""
    if request.image is None or "strength" in accepted:
        return profile.strength.default if request.strength is None else request.strength
    if request.strength not in {None, LEGACY_STRENGTH}:
        raise _not_supported("strength")
    return None


def _no_effect(scale: str, off: float, value: float) -> InputError:
    message = f"negative_prompt has an effect only with a {scale} above {off:g}; got {value:g}."
    return InputError(f"{message} Raise it, or leave negative_prompt out.", field="negative_prompt")


def _not_supported(field_name: str) -> InputError:
    return InputError(f"{field_name} is not supported by this model. Leave it out.", field=field_name)
