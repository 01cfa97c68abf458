import json
from collections.abc import Callable
from pathlib import Path

from chutes.server.keys import KeyStore
from tests.chutes.cli.conftest import Run


def test_a_key_is_printed_once_and_works_until_it_is_deleted(chutes: Run, tmp_path: Path) -> None:
    done = chutes("keys", "create", "phone")
    assert done.returncode == 0
    (key,) = done.stdout.split()
    assert "Authorization: Bearer" in done.stderr

    file = tmp_path / ".chutes/keys.json"
    assert KeyStore(file).verify(key)
    assert key not in file.read_text()

    listed = chutes("keys", "list")
    assert "phone" in listed.stdout
    assert key not in listed.stdout

    assert chutes("keys", "delete", "phone").returncode == 0
    assert not KeyStore(file).verify(key)
    assert "chutes keys create" in chutes("keys", "list").stderr


def test_json_output_is_valid(chutes: Run) -> None:
    made = json.loads(chutes("keys", "create", "a", "--json").stdout)
    assert set(made) == {"name", "key"}
    listed = json.loads(chutes("keys", "list", "--json").stdout)
    assert [set(each) for each in listed] == [{"name", "created"}]


def test_the_key_file_can_be_chosen(chutes: Run, tmp_path: Path) -> None:
    chutes("keys", "create", "a", CHUTES_KEYS_FILE="elsewhere/keys.json")
    assert (tmp_path / "elsewhere/keys.json").stat().st_mode & 0o777 == 0o600


def test_a_key_file_that_others_may_write_causes_a_warning(chutes: Run, tmp_path: Path) -> None:
    assert "Warning" not in chutes("keys", "create", "phone").stderr
    (tmp_path / ".chutes/keys.json").chmod(0o666)
    for command in (["list"], ["create", "tablet"], ["list"]):
        (tmp_path / ".chutes").chmod(0o777)
        assert f"Warning: Other users can write to {tmp_path}/.chutes " in chutes("keys", *command).stderr
    (tmp_path / ".chutes/keys.json").chmod(0o620)
    assert f"Warning: Other users can write to {tmp_path}/.chutes/keys.json " in chutes("keys", "list").stderr
    assert "Warning" in chutes("keys", "delete", "phone").stderr
    assert json.loads(chutes("keys", "list", "--json").stdout)[0]["name"] == "tablet"


def test_names_are_shown_literally(chutes: Run) -> None:
    name = "[red]a\x1b[31m[/nope]"
    chutes("keys", "create", name)
    assert r"[red]a\x1b[31m[/nope]" in chutes("keys", "list").stdout
    assert chutes("keys", "delete", name).returncode == 0


def test_an_error_is_one_line(chutes: Run, fails: Callable[..., str], tmp_path: Path) -> None:
    chutes("keys", "create", "phone")
    assert "already" in fails("keys", "create", "phone")
    assert "Did you mean 'phone'" in fails("keys", "delete", "fone")
    (tmp_path / "bad.json").write_text("{")
    for command in (["list"], ["create", "a"], ["delete", "a"]):
        assert "CHUTES_KEYS_FILE" in fails("keys", *command, CHUTES_KEYS_FILE="bad.json")
    (tmp_path / "file").write_text("")
    assert "CHUTES_KEYS_FILE" in fails("keys", "create", "a", CHUTES_KEYS_FILE="file/keys.json")
