"""Clients that disconnect in any stage of a request leak nothing."""

import asyncio
import os
from pathlib import Path

from benchmarks.harness.server import IMAGE_MODULES, serving
from benchmarks.hostile.disconnects import MEMORY_MARGIN, STAGES, disconnect, reference, settle
from benchmarks.hostile.server import Server

PICTURES = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from benchmarks.hostile.pictures import chute
"""
POOL = 8  # threads by which a pool may grow; a leak would add one for each client


def test_sixty_disconnects_from_the_image_service_leak_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, PICTURES, imported=IMAGE_MODULES) as served:
        server = Server(served.process, Path(os.devnull), served.port)
        first = reference(server)
        asyncio.run(disconnect(server.port, 30, seed=1))
        before = settle(server)
        stages = asyncio.run(disconnect(server.port, 60, seed=2))
        after = settle(server, before)
        print(f"{dict(stages)} disconnected; {before} before, {after} after")
        assert stages.total() == 60
        assert stages.keys() == set(STAGES)
        assert server.is_idle()
        assert server.metric("chutes_disconnects_total", stage="queued") > 0
        assert server.metric("chutes_disconnects_total", stage="running") > 0
        assert after.threads <= before.threads + POOL
        assert after.descriptors <= before.descriptors + 2
        assert after.memory - before.memory <= MEMORY_MARGIN
        assert reference(server) == first
