import pytest

from chutes.util.context import is_local, is_remote


def test_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHUTES_EXECUTION_CONTEXT", raising=False)
    assert (is_remote(), is_local()) == (False, True)
    monkeypatch.setenv("CHUTES_EXECUTION_CONTEXT", "REMOTE")
    assert (is_remote(), is_local()) == (True, False)
