"""Half an hour of mixed traffic (or SOAK_MINUTES): memory, threads and descriptors do not rise."""

import os

import pytest

from benchmarks.hostile import soak

MINUTES = float(os.environ.get("SOAK_MINUTES", "30"))


@pytest.mark.soak
@pytest.mark.timeout(MINUTES * 60 + 600)
def test_nothing_rises_in_mixed_traffic() -> None:
    result = soak.run(MINUTES, seed=15)
    assert result["met"], result["targets"]
