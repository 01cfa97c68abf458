"""The defaults and bounds of one model's requests, and the sizes that suit it.

This module imports neither torch nor Pillow, so that a machine without them can document the routes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from imagegen.errors import InputError
from imagegen.limits import MAX_SIDE, MIN_SIDE

Route = Literal["generate", "batch", "img2img", "inpaint"]

LEGACY_GUIDANCE, LEGACY_STRENGTH = 7.5, 0.75  # defaults of the first version, which some clients send to every model
DEFAULT_SIDE = 1024  # pixels of a model whose configuration has no size


class Bounds(NamedTuple):
    """The default, the minimum and the maximum of a number."""

    default: float
    minimum: float
    maximum: float


@dataclass(frozen=True)
class Sizes:
    """The sizes that a model generates.

    - `multiple`: each side is a multiple of this many pixels.
    - `longest_side`: length of the longer side in pixels; None if the model generates any.
    - `min_area`, `max_area`: smaller and larger images, in pixels, are generated at these areas and scaled. None
      means that any size suits the model.
    """

    multiple: int = 16
    longest_side: int | None = None
    min_area: int | None = None
    max_area: int | None = None

    def scale(self, width: int, height: int) -> float:
        """Return the factor from the requested to the generated size."""
        if self.longest_side:
            return self.longest_side / max(width, height)
        area = width * height
        if self.min_area and area < self.min_area:
            return min(math.sqrt(self.min_area / area), MAX_SIDE / max(width, height))
        if self.max_area and area > self.max_area:
            return math.sqrt(self.max_area / area)
        # Input images may be smaller than MIN_SIDE, which is too little for any model.
        return max(1.0, min(MIN_SIDE / min(width, height), MAX_SIDE / max(width, height)))


_STRENGTH = Bounds(LEGACY_STRENGTH, 0.1, 1)


@dataclass(frozen=True)
class Profile:
    """The defaults and bounds of one model.

    - `name`: the model family's name, or the pipeline's class.
    - `steps`: denoising steps.
    - `route_steps`: denoising steps on single routes, instead of `steps`.
    - `guidance`: guidance scale; None if the model takes none.
    - `guidance_argument`: the pipeline's argument for the guidance scale.
    - `guidance_off`: negative prompts have an effect only above this guidance scale; None for no such limit.
    - `blank_negative`: the negative prompt of a request without one; None leaves the argument out.
    - `true_cfg`: guidance scale of the negative prompt, where it has one of its own; otherwise None.
    - `strength`: share of the steps that run with an input image.
    - `max_images`: number of input images that one request may have.
    - `size`: width and height of an image whose size the request leaves out.
    - `sizes`: the sizes that the model generates.
    - `tokens`: number of tokens to which a prompt is padded or truncated.
    - `all_tasks_work`: whether every task is known to work, so that the engine warms up only one.
    """

    name: str
    steps: Bounds
    route_steps: Mapping[Route, Bounds] = field(default_factory=dict)
    guidance: Bounds | None = None
    guidance_argument: str = "guidance_scale"
    guidance_off: float | None = 1.0
    blank_negative: str | None = None
    true_cfg: Bounds | None = None
    strength: Bounds = _STRENGTH
    max_images: int = 1
    size: tuple[int, int] = (DEFAULT_SIDE, DEFAULT_SIDE)
    sizes: Sizes = Sizes()
    tokens: int = 256
    all_tasks_work: bool = False

    def steps_on(self, route: Route) -> Bounds:
        """Return the default and the bounds of the steps on a route."""
        return self.route_steps.get(route, self.steps)

    def bounds(self, route: Route) -> dict[str, Bounds]:
        """Return the default and the bounds of each number in a route's body that the model honours."""
        same = self.guidance_argument == "true_cfg_scale"  # both names stand for one value
        found = {
            "num_inference_steps": self.steps_on(route),
            "guidance_scale": self.guidance,
            "true_cfg_scale": self.guidance if same else self.true_cfg,
            "strength": self.strength if route in {"img2img", "inpaint"} else None,
        }
        return {name: value for name, value in found.items() if value is not None}

    def check(self, route: Route, values: Mapping[str, Any]) -> None:
        """Raise InputError if one of a body's values is outside the model's bounds."""
        for name, bounds in self.bounds(route).items():
            value = values.get(name)
            if value is not None and not bounds.minimum <= value <= bounds.maximum:
                span = f"from {bounds.minimum:g} to {bounds.maximum:g}"
                raise InputError(f"{name} must be {span} for this model; got {value:g}.", field=name)

    @property
    def info(self) -> dict[str, object]:
        """The profile as `/ready` reports it."""
        return {
            "name": self.name,
            "steps": self.steps_on("generate").default,
            "guidance": self.guidance.default if self.guidance else None,
            "size": list(self.size),
            "tokens": self.tokens,
            "max_images": self.max_images,
        }


TRUE_CFG = Bounds(2, 1, 20)  # in addition to FLUX's distilled guidance; high values of both oversaturate the image

# FLUX.1-dev keeps the defaults and bounds of the first version, on which clients rely.
FLUX_DEV = Profile(
    "FLUX.1-dev",
    steps=Bounds(28, 1, 50),
    route_steps={"generate": Bounds(10, 1, 30), "batch": Bounds(20, 10, 50)},
    guidance=Bounds(LEGACY_GUIDANCE, 1, 20),
    guidance_off=None,
    true_cfg=TRUE_CFG,
    all_tasks_work=True,
)
