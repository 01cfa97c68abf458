"""The README's curl command writes the image that the README shows."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.harness.server import Server

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("curl") is None, reason="the command is curl's")
def test_the_readmes_command_generates_its_image(service: Server, tmp_path: Path) -> None:
    (command,) = re.findall(r"```sh\n(curl .*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    here = command.replace("127.0.0.1:8000", f"127.0.0.1:{service.port}")
    subprocess.run(["bash", "-ec", here], cwd=tmp_path, capture_output=True, check=True)
    with Image.open(tmp_path / "picture.jpg") as drawn, Image.open(ROOT / "docs" / "picture.jpg") as shown:
        assert drawn.size == shown.size == (1024, 1024)
        difference = np.abs(np.asarray(drawn, np.float32) - np.asarray(shown, np.float32)).mean()
    assert difference < 4  # of 255, because processors round differently
