"""A request for one image."""

from dataclasses import dataclass
from typing import Literal

from PIL import Image

from imagegen.canvas import Size, size_like
from imagegen.limits import MAX_SEED, MAX_SIDE, MIN_SIDE
from imagegen.profile import DEFAULT_SIDE

Task = Literal["text2image", "img2img", "inpaint"]


@dataclass(frozen=True)
class Request:
    """An image to generate.

    A prompt alone is text to image; with an image it is image to image, and with a mask too it is inpainting.

    Args:
        prompt: What the image shows.
        negative_prompt: What the image must not show; blank counts as None.
        true_cfg_scale: The guidance scale of the negative prompt, for models such as FLUX.1 that have one beside
            `guidance`. None means the model's own.
        width: The width of the result in pixels, 128 to 2048. None means the input image's, or the model's own without
            one. If only one side is given, the other follows from the proportions.
        height: The height of the result in pixels, as `width`.
        steps: The denoising steps; None means the model's own number. With an image only `strength` of them run, the
            last ones.
        guidance: The guidance scale of the prompt; None means the model's own.
        seed: 0 to 4294967295. None means a random one; see `Picture.seed`.
        image: The RGB image to start from. It is scaled and cropped to the result's size.
        mask: A greyscale image (mode L) of the image's size. White is repainted, black stays as it is.
        strength: The share of the steps that run, above 0 and at most 1; None means the model's own. The higher it is,
            the more the result differs from the image.
        scheduler: Diffusers' class name or a short name such as `euler a`; None means the model's own.
        references: Further RGB images for a model that combines several.
        resized_from: The width and height of the sent image, if it was scaled down to `image`; see
            `Picture.resized_from`.

    Raises:
        ValueError: The fields contradict each other or are out of range.
    """

    prompt: str
    negative_prompt: str | None = None
    true_cfg_scale: float | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int | None = None
    image: Image.Image | None = None
    mask: Image.Image | None = None
    strength: float | None = None
    scheduler: str | None = None
    references: tuple[Image.Image, ...] = ()
    resized_from: Size | None = None

    def __post_init__(self) -> None:
        for name, side in (("width", self.width), ("height", self.height)):
            if side is not None and not MIN_SIDE <= side <= MAX_SIDE:
                raise ValueError(f"Request {name} must be from {MIN_SIDE} to {MAX_SIDE} pixels; got {side}.")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"Request steps must be at least 1; got {self.steps}.")
        if self.strength is not None and not 0 < self.strength <= 1:
            raise ValueError(f"Request strength must be above 0 and at most 1; got {self.strength:g}.")
        if self.seed is not None and not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"Request seed must be from 0 to {MAX_SEED}; got {self.seed}.")
        self._check_images()

    def _check_images(self) -> None:
        image, mask = self.image, self.mask
        if self.references and image is None:
            raise ValueError("Request references need an image; got none.")
        for name, each in (("image", image), *(("references", each) for each in self.references)):
            if each is not None and each.mode != "RGB":
                raise ValueError(f"Request {name} must have mode RGB; got {each.mode}. Use image.convert('RGB').")
        if mask is None:
            return
        if image is None:
            raise ValueError("Request mask needs an image; got none.")
        if mask.mode != "L":
            raise ValueError(f"Request mask must have mode L; got {mask.mode}. Use mask.convert('L').")
        if mask.size != image.size:
            sizes = "{}x{} for an image of {}x{}".format(*mask.size, *image.size)
            raise ValueError(f"Request mask must have the image's size; got {sizes}. Use mask.resize(image.size).")

    @property
    def task(self) -> Task:
        """The pipeline that the request needs, which follows from its images."""
        if self.image is None:
            return "text2image"
        return "img2img" if self.mask is None else "inpaint"

    @property
    def size(self) -> Size:
        """Width and height of the result, in pixels; 1024x1024 if the model decides."""
        return self.size_or((DEFAULT_SIDE, DEFAULT_SIDE))

    def size_or(self, default: Size) -> Size:
        """Return width and height of the result in pixels; `default` is that of a request without image and size."""
        return size_like(self.image.size if self.image else default, self.width, self.height)
