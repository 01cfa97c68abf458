"""A finished picture: its pixels, and everything needed to draw it again."""

from dataclasses import dataclass

from PIL import Image

from imagegen import image_file
from imagegen.image_file import Format


@dataclass(frozen=True)
class Picture:
    """An RGB image of exactly the size asked for; `drawn` is the size at which the model drew it."""

    image: Image.Image
    metadata: dict[str, object]
    """The request as it was drawn, with its seed, the model's name and the software's: goes into the file."""
    drawn: tuple[int, int]
    origin: str
    precision: str
    fallback: str | None = None
    """Why this picture is less than what was asked for; None where it is not."""

    @property
    def seed(self) -> int:
        """The seed that, with the same request, draws this picture again."""
        return int(str(self.metadata["seed"]))

    def encode(self, file_format: Format = "jpeg", *, quality: int = 85) -> bytes:
        """Write the picture into a file, its metadata inside. Takes a while: keep it off the event loop."""
        return image_file.encode_image(self.image, file_format, self.metadata, quality=quality)

    @property
    def headers(self) -> dict[str, str]:
        """What a response tells of the picture."""
        headers = {
            "X-Seed": str(self.seed),
            "X-Steps": str(self.metadata["num_inference_steps"]),
            "X-Model": str(self.metadata["model"]).encode("ascii", "replace").decode(),
            "X-Model-Origin": self.origin,
            "X-Precision": self.precision,
            "X-Drawn-Size": "{}x{}".format(*self.drawn),
        }
        if self.fallback:
            headers["X-Fallback"] = self.fallback
        return headers
