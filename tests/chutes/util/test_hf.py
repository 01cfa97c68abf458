"""Verify and delete cached models with the real client and a double of the hub."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants, snapshot_download

from chutes.exception import CommandError
from chutes.util.hf import CacheVerificationError, compare_with_hub, purge_model_cache, verify_cache
from tests.chutes.cli import hub

pytestmark = pytest.mark.anyio
FILES = {"README.md": b"# A model", "config.json": b"{}", "model.safetensors": bytes(1000)}


@pytest.fixture
def the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[hub.Hub]:
    with hub.serve({"a/model": hub.Repo(dict(FILES))}) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        yield running


@pytest.fixture
def folder(the_hub: hub.Hub) -> Path:
    return Path(snapshot_download("a/model"))


async def test_an_intact_cache(folder: Path) -> None:
    expected = {"verified": 3, "skipped": 0, "total": 3, "skipped_api_error": False}
    assert await verify_cache("a/model") == expected
    assert await verify_cache(repo_id="a/model", revision="main", cache_dir=str(folder.parents[2])) == expected
    assert await verify_cache("a/model", hub.COMMIT) == expected


async def test_files_that_are_not_cached_are_skipped(folder: Path) -> None:
    (folder / "README.md").unlink()
    assert await verify_cache("a/model") == {"verified": 2, "skipped": 1, "total": 3, "skipped_api_error": False}
    assert compare_with_hub("a/model").missing == ["README.md"]


@pytest.mark.parametrize("content", [b"", bytes(999) + b"\1", bytes(1001)])
async def test_damaged_files_are_named(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(
        CacheVerificationError, match=r"1 cached files of a/model differ .*: model\.safetensors"
    ) as error:
        await verify_cache("a/model")
    assert (error.value.reason, error.value.damaged) == ("mismatch", ("model.safetensors",))
    assert isinstance(error.value, CommandError)  # `chutes run` prints the message alone


async def test_a_model_that_is_not_cached(the_hub: hub.Hub) -> None:
    with pytest.raises(CacheVerificationError, match="Get it with: chutes download a/model") as error:
        await verify_cache("a/model")
    assert error.value.reason == "not_found"


async def test_without_the_hub_nothing_is_verified(
    folder: Path, the_hub: hub.Hub, caplog: pytest.LogCaptureFixture
) -> None:
    the_hub.broken = 500
    assert await verify_cache("a/model") == {"verified": 0, "skipped": 0, "total": 0, "skipped_api_error": True}
    assert "The cache of a/model was not verified" in caplog.text


def test_a_model_is_purged(folder: Path) -> None:
    assert not purge_model_cache("a/other")
    assert folder.is_dir()
    assert purge_model_cache("a/model")
    assert not folder.parents[1].exists()
    assert not purge_model_cache("a/model")
