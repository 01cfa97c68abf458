"""A finished picture: its pixels, and everything needed to generate it again."""

from dataclasses import dataclass

from PIL import Image

from imagegen.canvas import Size
from imagegen.image_file import Format, encode_image


@dataclass(frozen=True)
class Picture:
    """An RGB image of exactly the requested size.

    - `metadata`: the request, with the seed, the steps and the model that were used. It goes into the image file.
    - `drawn`: the width and height at which the model generated the picture, before scaling.
    - `origin`: where the weights came from: `bundled`, `folder` or `hub`.
    - `precision`: the model's arithmetic, such as `bf16`.
    - `fallback`: why the picture has fewer steps and less detail than requested, such as `out-of-memory`; else None.
    """

    image: Image.Image
    metadata: dict[str, object]
    drawn: Size
    origin: str
    precision: str
    fallback: str | None = None

    @property
    def seed(self) -> int:
        """The seed that, with the same request, generates this picture again."""
        return int(str(self.metadata["seed"]))

    def encode(self, file_format: Format = "jpeg", *, quality: int = 85) -> bytes:
        """Return the picture as a file with its metadata inside. Slow: keep it off the event loop."""
        return encode_image(self.image, file_format, self.metadata, quality=quality)
