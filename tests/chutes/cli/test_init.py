"""`chutes init`: the new chute is written once and generates images as it is."""

import ast
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.harness.server import IMAGE_MODULES
from benchmarks.harness.waiting import LIMIT
from tests.chutes.cli.conftest import Run
from tests.chutes.cli.server import eventually, get, running


def test_the_module_is_named_after_the_chute(chutes: Run, tmp_path: Path) -> None:
    done = chutes("init", "my-image-gen")
    assert (done.returncode, done.stdout) == (0, "my_image_gen.py\n")
    assert "chutes run my_image_gen" in done.stderr
    text = (tmp_path / "my_image_gen.py").read_text()
    ast.parse(text)
    assert "{{" not in text
    assert 'name="my-image-gen"' in text


def test_nothing_is_overwritten_or_hidden(chutes: Run, fails: Callable[..., str], tmp_path: Path) -> None:
    chutes("init", "mine")
    (tmp_path / "mine.py").write_text("precious")
    assert "already exists" in fails("init", "mine")
    assert (tmp_path / "mine.py").read_text() == "precious"
    for name in ("torch", "json", "chutes"):
        assert "would hide" in fails("init", name)
    for name in ("9lives", "class", "../up", "a b", ""):
        assert "cannot be used as a module name" in fails("init", name)
    assert [path.name for path in tmp_path.glob("*.py")] == ["mine.py"]


def test_the_new_chute_generates_images(chutes: Run, tmp_path: Path, bundled: Path) -> None:
    chutes("init", "my-image-gen")
    with running(tmp_path, "my_image_gen", imported=IMAGE_MODULES, IMAGEGEN_MODEL=str(bundled)) as (process, port):
        eventually(lambda: get(port, "/ready"), process)
        body = json.dumps({"prompt": "a red apple", "width": 200, "height": 136, "num_inference_steps": 1}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/generate", body, {"Content-Type": "application/json"}
        )
        empty = urllib.request.Request(request.full_url, b'{"prompt": ""}', dict(request.headers))
        with pytest.raises(urllib.error.HTTPError, match="422"):
            urllib.request.urlopen(empty, timeout=LIMIT)
        with urllib.request.urlopen(request, timeout=LIMIT) as response:
            assert response.headers["Content-Type"] == "image/jpeg"
            assert response.headers["X-Seed"]
            (tmp_path / "picture.jpg").write_bytes(response.read())
    with Image.open(tmp_path / "picture.jpg") as picture:
        assert picture.size == (200, 136)
