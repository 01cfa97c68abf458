"""The result of a request: an image, and the metadata to generate it again."""

from dataclasses import dataclass
from importlib.metadata import version

from PIL import Image

from imagegen.canvas import Size
from imagegen.image_file import DEFAULT_QUALITY, Format, encode_image
from imagegen.request import Request

_SOFTWARE = f"chutes-selfhosted {version('chutes-selfhosted')}"

_PRIVATE = {"prompt", "negative_prompt", "seed"}


@dataclass(frozen=True)
class Picture:
    """A generated image with its metadata.

    Args:
        image: The image: RGB, of exactly the requested size.
        metadata: The request, with the seed, the steps and the model that were used. `encode` writes it into the file.
        generated_size: The width and height in pixels that the model generated, before cropping and scaling.
        origin: Where the weights came from: `bundled`, `folder` or `hub`.
        precision: The model's arithmetic, such as `bf16`.
        resized_from: The width and height of the request's image before it was scaled down to a size that the service
            accepts; else None.
        private: Whether the file leaves out the prompts and the seed.
        fallback: Why the image has fewer steps and less detail than requested, such as `out-of-memory`; else None.
    """

    image: Image.Image
    metadata: dict[str, object]
    generated_size: Size
    origin: str
    precision: str
    resized_from: Size | None = None
    private: bool = False
    fallback: str | None = None

    @property
    def seed(self) -> int:
        """The seed that, with the same request, generates this image again."""
        return int(str(self.metadata["seed"]))

    def encode(self, file_format: Format = "jpeg", *, quality: int = DEFAULT_QUALITY) -> bytes:
        """Encode the image as a file with its metadata. Slow: keep it off the event loop.

        `quality`, 1 to 100, applies to JPEG and WebP.
        """
        metadata = {key: value for key, value in self.metadata.items() if not (self.private and key in _PRIVATE)}
        return encode_image(self.image, file_format, metadata, quality=quality)


def request_metadata(
    request: Request, size: tuple[int, int], steps: int, model: str, unread_tokens: int = 0
) -> dict[str, object]:
    """Return the metadata of an image file: the request with the values that were used.

    `unread_tokens` is the number of the prompt's tokens that the model did not read.

    The order of the values determines the file's bytes, so it must stay the same.
    """
    values: dict[str, object | None] = {
        "negative_prompt": request.negative_prompt,
        "true_cfg_scale": request.true_cfg_scale,
        "prompt": request.prompt,
    }
    width, height = size
    guidance, seed = {"guidance_scale": request.guidance}, {"seed": request.seed}
    if request.image is None:
        values |= {"height": height, "width": width, "num_inference_steps": steps, **guidance, **seed}
    else:
        sides = {"width": width, "height": height}
        given = {name: side for name, side in sides.items() if getattr(request, name)}
        values |= {"strength": request.strength, **guidance, "num_inference_steps": steps, **given, **seed, **sides}
    values |= {"scheduler": request.scheduler, "unread_tokens": unread_tokens or None}
    values |= {"model": model, "software": _SOFTWARE}
    return {key: value for key, value in values.items() if value is not None}
