"""`chutes download` with the real client and a double of the hub."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.harness.waiting import LIMIT
from tests.chutes.cli import hub
from tests.chutes.cli.conftest import Run

INDEX = json.dumps({"_class_name": "FluxPipeline", "vae": ["diffusers", "AutoencoderKL"]}).encode()
FILES = {
    ".gitattributes": b"",
    "README.md": b"# A model",
    "flux1-dev.safetensors": b"x" * 1000,
    "model_index.json": INDEX,
    "vae/config.json": b"{}",
    "vae/diffusion_pytorch_model.safetensors": os.urandom(3_000_000),
}
NEEDED = {"README.md", "model_index.json", "vae/config.json", "vae/diffusion_pytorch_model.safetensors"}


@pytest.fixture
def the_hub() -> Iterator[hub.Hub]:
    with hub.serve({"a/model": hub.Repo(FILES), "a/gated": hub.Repo(FILES, token="good")}) as running:
        yield running


def test_needed_files_are_downloaded_once(chutes: Run, the_hub: hub.Hub) -> None:
    done = chutes("download", "a/model", HF_ENDPOINT=the_hub.url)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == NEEDED
    assert sorted(the_hub.fetched) == sorted(NEEDED)
    assert "4 files, 3.0 MB" in done.stderr

    the_hub.fetched.clear()
    again = chutes("download", "a/model", HF_ENDPOINT=the_hub.url)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert the_hub.fetched == []


def test_the_image_service_finds_the_model(chutes: Run, the_hub: hub.Hub, tmp_path: Path) -> None:
    folder = Path(chutes("download", "a/model", HF_ENDPOINT=the_hub.url).stdout.strip())
    assert folder.is_relative_to(tmp_path / ".cache/huggingface/hub/models--a--model/snapshots")
    code = "from imagegen import checkpoint as model; print(model.find('a/model')[0])"
    env = {**os.environ, "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()) == folder


@pytest.mark.parametrize("token", ["", "bad"])
def test_the_error_of_a_gated_model_names_its_page(fails: Callable[..., str], the_hub: hub.Hub, token: str) -> None:
    line = fails("download", "a/gated", HF_ENDPOINT=the_hub.url, HF_TOKEN=token)
    assert "gated" in line
    assert f"{the_hub.url}/a/gated" in line
    assert "HF_TOKEN" in line
    assert the_hub.fetched == []


def test_a_token_gives_access_to_a_gated_model(chutes: Run, the_hub: hub.Hub) -> None:
    assert chutes("download", "a/gated", HF_ENDPOINT=the_hub.url, HF_TOKEN="good").returncode == 0


def test_errors_of_the_hub_are_one_line(fails: Callable[..., str], the_hub: hub.Hub) -> None:
    assert "The hub has no model a/nothing" in fails("download", "a/nothing", HF_ENDPOINT=the_hub.url)
    assert "black-forest-labs/FLUX.1-dev" in fails("download", "not a name", HF_ENDPOINT=the_hub.url)
    assert "rejects the token" in fails("download", "a/model", HF_ENDPOINT=the_hub.url, HF_TOKEN="rubbish")
    assert "Cannot reach" in fails("download", "a/model", HF_ENDPOINT="http://127.0.0.1:9")
    assert "HF_HUB_OFFLINE" in fails("download", "a/model", HF_ENDPOINT=the_hub.url, HF_HUB_OFFLINE="1")
    the_hub.broken = 500
    assert "answered 500" in fails("download", "a/model", HF_ENDPOINT=the_hub.url)


def test_a_cached_model_needs_no_hub(chutes: Run, fails: Callable[..., str], the_hub: hub.Hub) -> None:
    folder = chutes("download", "a/model", HF_ENDPOINT=the_hub.url).stdout
    done = chutes("download", "a/model", HF_ENDPOINT="http://127.0.0.1:9")
    assert (done.returncode, done.stdout) == (0, folder)
    assert "the cache holds every file" in done.stderr
    (Path(folder.strip()) / "vae/config.json").unlink()
    assert "no complete copy" in fails("download", "a/model", HF_ENDPOINT="http://127.0.0.1:9")


def test_cached_files_of_a_wrong_size_are_downloaded_again(
    chutes: Run, fails: Callable[..., str], the_hub: hub.Hub
) -> None:
    folder = Path(chutes("download", "a/model", HF_ENDPOINT=the_hub.url).stdout.strip())
    damaged = ["model_index.json", "vae/diffusion_pytorch_model.safetensors"]
    for name, content in zip(damaged, [b"<html>", b""], strict=True):
        (folder / name).write_bytes(content)
    assert "no complete copy" in fails("download", "a/model", HF_ENDPOINT="http://127.0.0.1:9")

    the_hub.fetched.clear()
    done = chutes("download", "a/model", HF_ENDPOINT=the_hub.url)
    assert (done.returncode, done.stdout) == (0, f"{folder}\n"), done.stderr
    assert sorted(the_hub.fetched) == damaged
    assert all((folder / name).read_bytes() == FILES[name] for name in damaged)


def test_files_that_arrive_damaged_are_deleted(chutes: Run, fails: Callable[..., str], the_hub: hub.Hub) -> None:
    damaged = ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"]
    the_hub.corrupted.update(damaged)
    done = chutes("download", "a/model", HF_ENDPOINT=the_hub.url)
    assert (done.returncode, done.stdout) == (1, "")
    error = done.stderr.splitlines()[-1]
    assert error.startswith("Error: 2 files of a/model were damaged")
    assert f": {', '.join(damaged)}. Run `chutes download a/model`" in error

    the_hub.corrupted.clear()
    the_hub.fetched.clear()
    again = chutes("download", "a/model", HF_ENDPOINT=the_hub.url)
    assert again.returncode == 0, again.stderr
    assert sorted(the_hub.fetched) == damaged
    assert (Path(again.stdout.strip()) / damaged[1]).read_bytes() == FILES[damaged[1]]


def test_verify_finds_damage_that_keeps_the_size(chutes: Run, the_hub: hub.Hub) -> None:
    folder = Path(chutes("download", "a/model", HF_ENDPOINT=the_hub.url).stdout.strip())
    the_hub.fetched.clear()
    whole = chutes("download", "--verify", "a/model", HF_ENDPOINT=the_hub.url)
    assert (whole.returncode, whole.stdout) == (0, f"{folder}\n"), whole.stderr
    assert "4 files of a/model have the hub's checksums" in whole.stderr

    damaged = ["README.md", "vae/diffusion_pytorch_model.safetensors"]
    for name in damaged:
        (folder / name).write_bytes(bytes(len(FILES[name])))
    done = chutes("download", "--verify", "a/model", HF_ENDPOINT=the_hub.url)
    assert (done.returncode, done.stdout) == (1, "")
    listed = ", ".join(damaged)
    assert f"Error: 2 files of a/model were damaged and are now deleted from the cache: {listed}." in done.stderr
    lacking = chutes("download", "--verify", "a/model", HF_ENDPOINT=the_hub.url)
    assert lacking.returncode == 1
    assert f"The cache lacks 2 files of a/model: {listed}. Run `chutes download a/model`" in lacking.stderr
    assert the_hub.fetched == []


def test_verify_needs_the_cache_and_the_hub(chutes: Run, fails: Callable[..., str], the_hub: hub.Hub) -> None:
    missing = chutes("download", "--verify", "a/model", HF_ENDPOINT=the_hub.url)
    assert missing.returncode == 1
    assert "Error: The cache does not hold a/model. Get it with: chutes download a/model." in missing.stderr
    assert chutes("download", "a/model", HF_ENDPOINT=the_hub.url).returncode == 0
    offline = chutes("download", "--verify", "a/model", HF_ENDPOINT="http://127.0.0.1:9")
    assert offline.returncode == 1
    assert "Error: Cannot reach http://127.0.0.1:9" in offline.stderr


def test_a_model_index_that_is_no_object_is_refused(chutes: Run) -> None:
    with hub.serve({"a/model": hub.Repo({**FILES, "model_index.json": b"[1]"})}) as running:
        done = chutes("download", "a/model", HF_ENDPOINT=running.url)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: a/model has a model_index.json that is no JSON object.")


def test_disk_space_is_checked_before_the_download(
    the_hub: hub.Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = (
        "import shutil; shutil.disk_usage = lambda p: shutil._ntuple_diskusage(9, 8, 1_000_000)\n"
        "from chutes.cli import app; app(['download', 'a/model'])"
    )
    env = {**os.environ, "HF_ENDPOINT": the_hub.url, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: The download needs 3.0 MB, but ")
    assert "HF_HOME" in done.stderr
    assert the_hub.fetched == ["model_index.json"]  # a few bytes that say what is needed


def test_a_terminal_shows_a_bar(the_hub: hub.Hub, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    env = {**os.environ, "HF_ENDPOINT": the_hub.url, "HOME": str(tmp_path), "TERM": "xterm", "COLUMNS": "100"}
    command = [sys.executable, "-m", "chutes", "download", "a/model"]
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=slave)
    os.close(slave)
    shown = b""
    try:
        while chunk := os.read(master, 65536):
            shown += chunk
    except OSError:  # how Linux says that the other side has closed
        pass
    os.close(master)
    assert process.wait(LIMIT) == 0
    assert b"Downloading" in shown
    assert b"3.0/3.0 MB" in shown
