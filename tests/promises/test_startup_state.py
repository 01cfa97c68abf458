"""Objects of a startup hook work in handlers, even locks that belong to an event loop."""

from pathlib import Path

from benchmarks.harness.server import serving

STATE = """
@chute.on_startup(priority=10)
async def first(self):
    self.lock = asyncio.Lock()
    self.queue = asyncio.Queue()
    self.made_in = (threading.get_ident(), id(asyncio.get_running_loop()))

@chute.on_startup(priority=20)
def second(self):
    self.order = ["second after first"] if hasattr(self, "lock") else []

@chute.cord(public_api_path="/use")
async def use(self) -> dict:
    async with self.lock:
        await self.queue.put(1)
        await asyncio.sleep(0.001)
        await self.queue.get()
        here = (threading.get_ident(), id(asyncio.get_running_loop()))
        return {"same": here == self.made_in, "order": self.order}
"""


def test_objects_of_a_startup_hook_work_in_handlers(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with serving(tmp_path, STATE, concurrency=8) as server, ThreadPoolExecutor(8) as pool:
        answers = [future.result().json() for future in [pool.submit(server.post, "/use") for _ in range(40)]]
        assert answers == [{"same": True, "order": ["second after first"]}] * 40
