import pytest

from chutes.deploy import rollout
from chutes.deploy.deployed import Deployed

RAYS = """Failed 1 times.
\x1b[36mray::X\x1b[39m
  File "/a/b.py"
chutes.deploy.replica.LoadFailed: RuntimeError: no weights (m.py:3)"""


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (RAYS, "RuntimeError: no weights (m.py:3)"),
        ("The actor died unexpectedly.\n\tactor_id: 1\n", "actor_id: 1"),
        ("", "The replica ended without a word"),
    ],
)
def test_says_what_the_replica_said(message, line):
    details = {"deployments": {"chute": {"message": message}}}
    assert rollout.why(Deployed("slug", None, details)) == line
