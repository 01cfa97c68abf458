"""After a fatal error `/health` fails, and the process exits with code 4."""

from pathlib import Path

import pytest

from benchmarks.harness.server import serving

POISONED = """
from chutes.exception import Fatal

@chute.cord(public_api_path="/raise")
async def raising(self) -> str:
    raise Fatal("The GPU stopped answering")

@chute.cord(public_api_path="/fail")
async def failing(self) -> str:
    self.fail("the driver reported error 79")
    return "last words"
"""


@pytest.mark.parametrize(("path", "status"), [("/raise", 503), ("/fail", 200)])
def test_a_fatal_error_is_answered_and_ends_the_process(tmp_path: Path, path: str, status: int) -> None:
    with serving(tmp_path, POISONED) as server:
        assert server.post(path).status_code == status
        assert server.wait() == 4
        assert any(line["message"].startswith("Fatal error: ") for line in server.log)
