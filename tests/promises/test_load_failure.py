"""A chute that cannot load is reported in one line, and the process exits with its own code."""

from pathlib import Path

import pytest

from benchmarks.harness.server import serving

FAILING = """
@chute.on_startup()
async def load(self):
    raise ValueError("the weights are from another model")

@chute.cord(public_api_path="/hello")
async def hello(self) -> str:
    return "hello"
"""


def test_a_failing_startup_hook_is_one_line_and_exit_code_3(tmp_path: Path) -> None:
    with serving(tmp_path, FAILING, wait=False) as server:
        assert server.wait() == 3
        errors = [line for line in server.log if line["level"] == "error"]
        print(errors)
        assert len(errors) == 1
        assert "the weights are from another model" in errors[0]["message"]
        assert "served.py:" in errors[0]["message"]


@pytest.mark.parametrize(
    ("source", "ref", "message"),
    [
        ("", "missing.py", "missing.py"),
        ("", "no_such_module:chute", "no_such_module"),
        ("def broken(:\n", None, "not valid Python"),
        ("import no_such_package\n", None, "no_such_package"),
        ("", "served:other", "other"),
        ("thing = 3\n", "served:thing", "int"),
    ],
)
def test_a_missing_chute_is_one_line_and_exit_code_1(
    tmp_path: Path, source: str, ref: str | None, message: str
) -> None:
    with serving(tmp_path, source, wait=False, ref=ref) as server:
        assert server.wait() == 1
        lines = [line for line in server.lines if line.strip()]
        print(lines)
        assert len(lines) == 1
        assert message in lines[0]
        assert "Traceback" not in lines[0]


def test_a_port_in_use_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    with (
        serving(tmp_path, "") as first,
        serving(tmp_path / "second", "", wait=False, port=first.port) as second,
    ):
        assert second.wait() == 1
        assert len(second.lines) == 1
        assert str(first.port) in second.lines[0]
