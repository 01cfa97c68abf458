"""The pages about image generation: their commands run against the service, and their tables match the code."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import BaseModel

from benchmarks.harness.cluster import cluster_folder
from benchmarks.harness.server import IMAGE_MODULES
from imagegen.checkpoint import BUNDLED
from imagegen.errors import InputError
from imagegen.http.responses import _ERRORS
from imagegen.http.schemas import BatchGenerationInput, GenerationInput, Img2ImgInput, InpaintInput
from imagegen.settings import Settings
from tests.docs.page import DOCS, Reader, blocks_of, reader

PAGE = DOCS / "image-service.md"
MODELS = DOCS / "models.md"
PAGES = [PAGE, MODELS, DOCS / "image-engine.md"]
ROUTES: dict[str, type[BaseModel]] = {
    "/generate": GenerationInput,
    "/batch": BatchGenerationInput,
    "/img2img": Img2ImgInput,
    "/inpaint": InpaintInput,
}
FIELDS = (
    "prompt",
    "prompts",
    "image_b64",
    "images_b64",
    "mask_b64",
    "strength",
    "width",
    "height",
    "num_inference_steps",
    "guidance_scale",
    "seed",
    "negative_prompt",
    "true_cfg_scale",
    "scheduler",
    "format",
)


@pytest.fixture(scope="module")
def who() -> Iterator[Reader]:
    """A reader who has followed the pages to their end."""
    if shutil.which("curl") is None:
        pytest.skip("the pages use curl")
    with cluster_folder() as cluster, reader(cluster, IMAGE_MODULES) as who:
        (who.folder / "chutes_app.py").symlink_to(DOCS.parent / "chutes_app.py")
        Image.effect_noise((160, 120), 50).convert("RGB").save(who.folder / "photo.jpg")
        Image.effect_noise((160, 120), 50).convert("RGB").save(who.folder / "lake.png")
        Image.new("L", (160, 120), 255).save(who.folder / "mask.png")
        for page in PAGES:
            for block in blocks_of(page):
                who.read(block)
        yield who


def test_the_commands_write_images_of_the_requested_sizes(who: Reader) -> None:
    sizes = {}
    for path in who.folder.glob("*.*g"):
        with Image.open(path) as image:
            sizes[path.name] = image.size
    assert sizes == {
        "0.jpg": (512, 512),
        "1.jpg": (512, 512),
        "apple.png": (256, 256),
        "boat.png": (160, 120),
        "cat.png": (1024, 1024),
        "icon.png": (256, 256),
        "lake.png": (160, 120),
        "lamp.jpg": (512, 512),
        "mask.png": (160, 120),
        "photo.jpg": (160, 120),
        "picture.jpg": (1024, 768),
        "winter.jpg": (160, 120),
    }


def test_only_what_needs_flux_is_not_run() -> None:
    reasons = [block.reason for page in PAGES for block in blocks_of(page) if block.reason]
    assert reasons == ["downloads 34 GB", "needs the weights of FLUX.1-dev"]


def test_a_lora_is_fused_into_a_copy_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from diffusers import FluxPipeline
    from peft import LoraConfig, get_peft_model_state_dict

    import imagegen

    monkeypatch.chdir(tmp_path)
    original = FluxPipeline.from_pretrained(BUNDLED, dtype=torch.bfloat16).transformer
    before = {name: value.clone() for name, value in original.state_dict().items()}
    original.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_q"], init_lora_weights=False))
    FluxPipeline.save_lora_weights(tmp_path, get_peft_model_state_dict(original), weight_name="my-lora.safetensors")
    (code,) = re.findall(r"```python\n(.*?)```", MODELS.read_text("utf-8").split("### Use a LoRA")[1], re.DOTALL)
    assert code.count("black-forest-labs/FLUX.1-dev") == 1
    exec(code.replace("black-forest-labs/FLUX.1-dev", str(BUNDLED)), {"__name__": "page"})
    after = imagegen.load("./flux-with-my-lora").pipeline.transformer.state_dict()
    changed = {name for name in before if not torch.allclose(before[name].float(), after[name].float())}
    assert after.keys() == before.keys()
    assert changed == {name for name in before if name.endswith("to_q.weight")}


def test_every_setting_is_on_the_page() -> None:
    page = MODELS.read_text()
    for name in Settings.model_fields:
        assert f"`IMAGEGEN_{name.upper()}`" in page


def test_every_error_code_is_on_the_page() -> None:
    table = PAGE.read_text().split("## Errors\n")[1].split("\n## ")[0]
    for kind, answer in _ERRORS.items():
        assert str(answer.status) in table
        assert issubclass(kind, InputError) or f"`{answer.code}`" in table  # `detail` of an InputError is a list


def test_the_table_of_fields_matches_the_schemas() -> None:
    listed = PAGE.read_text().split("<!-- fields -->\n")[1].split("\n\n")[0]
    assert listed == table_of_fields()
    assert set(FIELDS) == {name for model in ROUTES.values() for name in model.model_fields}


def table_of_fields() -> str:
    """Return the page's table of fields: one row for each field, one column for each route."""
    schemas = [model.model_json_schema() for model in ROUTES.values()]
    rows = [["Field", *(f"`{route}`" for route in ROUTES)], ["---"] * (len(ROUTES) + 1)]
    rows += [[f"`{name}`", *(_cell(schema, name) for schema in schemas)] for name in FIELDS]
    return "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |").replace("|  |", "| |") for row in rows)


def _cell(schema: dict[str, Any], name: str) -> str:
    field = schema["properties"].get(name)
    if field is None:
        return ""
    default = field.get("default")
    value = "required" if name in schema["required"] else "optional" if default is None else f"{default}"
    field = next((each for each in field.get("anyOf", []) if each["type"] != "null"), field)
    if "enum" in field:
        return f"{value} ({', '.join(field['enum'])})"
    for low, high, unit in (
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", ""),
    ):
        if high in field:
            return (
                f"{value} ({field[low]:g} to {field[high]:.10g}{unit})"
                if low in field
                else f"{value} (up to {field[high]}{unit})"
            )
    return value
