"""The commands in docs/image-service.md, run as they stand, and the two lines that read a file with Pillow."""

import json
import re
import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.harness.server import Server

PICTURES = (Path(__file__).parents[2] / "docs" / "image-service.md").read_text()


@pytest.mark.skipif(shutil.which("curl") is None, reason="the commands are curl's")
def test_the_commands(service: Server, tmp_path: Path) -> None:
    Image.effect_noise((160, 120), 50).convert("RGB").save(tmp_path / "photo.jpg")
    Image.effect_noise((160, 120), 50).convert("RGB").save(tmp_path / "lake.png")
    Image.new("L", (160, 120), 255).save(tmp_path / "mask.png")
    commands = re.findall(r"```\n(.*?)```", PICTURES, re.DOTALL)
    for command in commands:
        here = command.replace("localhost:8000", f"127.0.0.1:{service.port}")
        done = subprocess.run(["bash", "-ec", here], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    sizes = {path.name: Image.open(BytesIO(path.read_bytes())).size for path in tmp_path.glob("*.*g")}
    assert sizes == {
        "0.jpg": (1024, 1024),
        "1.jpg": (1024, 1024),
        "boat.png": (160, 120),
        "lake.png": (160, 120),
        "mask.png": (160, 120),
        "photo.jpg": (160, 120),
        "picture.jpg": (1024, 768),
        "winter.jpg": (160, 120),
    }


def test_the_lines_that_read_a_file(
    service: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for file_format, ending in (("png", "png"), ("jpeg", "jpg")):
        content = service.post("/generate", json={"prompt": "a cat", "format": file_format, "seed": 3}).content
        (tmp_path / f"picture.{ending}").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    (lines,) = re.findall(r"```python\n(.*?)```", PICTURES, re.DOTALL)
    exec(lines, {"Image": Image, "json": json})
    from_png, from_jpeg = capsys.readouterr().out.splitlines()
    assert from_png == "a cat"
    assert "'seed': 3" in from_jpeg


def test_every_setting_is_in_the_docs() -> None:
    from imagegen.settings import Settings

    for name in Settings.model_fields:
        assert f"`IMAGEGEN_{name.upper()}`" in PICTURES
