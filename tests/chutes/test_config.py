from pathlib import Path

import pytest

from chutes import config
from chutes.exception import AuthenticationRequired, NotConfigured

ACCOUNT = "username = me\nuser_id = 1\nhotkey_seed = 2\nhotkey_name = 3\nhotkey_ss58address = 4\n"


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config.ini"
    monkeypatch.setattr(config, "CONFIG_PATH", str(path))
    monkeypatch.setattr(config, "ALLOW_MISSING", False)
    monkeypatch.setattr(config, "_config", None)
    monkeypatch.delenv("CHUTES_API_URL", raising=False)
    return path


def test_a_whole_file(file: Path) -> None:
    file.write_text(f"[api]\nbase_url = http://x%y\n[auth]\n{ACCOUNT}")
    assert (config.get_config().auth.username, config.get_config().generic.api_base_url) == ("me", "http://x%y")
    assert config.get_config() is config.get_config()


def test_no_file(file: Path) -> None:
    with pytest.raises(NotConfigured, match=f"There is no configuration file {file}"):
        config.get_config()
    assert config.get_generic_config().api_base_url.startswith("http://127.0.0.1")


def test_no_account(file: Path) -> None:
    file.write_text("[auth]\nusername = me\n")
    with pytest.raises(AuthenticationRequired, match="lacks user_id, hotkey_seed, hotkey_name, hotkey_ss58address"):
        config.get_config()


def test_missing_may_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "ALLOW_MISSING", True)
    monkeypatch.setenv("CHUTES_API_URL", "http://other")
    assert (config.get_config().auth.username, config.get_config().generic.api_base_url) == (None, "http://other")
