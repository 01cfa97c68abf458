"""Mistakes in an author's code. `mypy --strict` reports the named error in each line that has a comment."""

from chutes import Chute, Image, NodeSelector
from chutes.chute.template.vllm import build_vllm_chute


class Writer(Chute):
    words: list[str]


Chute(usrname="me", name="a", image="b")  # call-arg
Chute(username="me", name="a", image="b", max_replica=2)  # call-arg
Chute(username="me", name="a", image="b", docs_ulr=None)  # call-arg
Chute(username="me", name="a", image="b", concurrency="2")  # arg-type
NodeSelector(min_vram_gpu_per_gpu=48)  # call-arg
NodeSelector(include="h100")  # arg-type
Image(username="me", name="a", tag="1", base_imge="b")  # arg-type
Image(username="me", name="a", tag="1").apt_instal("git")  # attr-defined
build_vllm_chute(username="me", model="m", node_selector=NodeSelector())  # call-arg

chute = Writer(username="me", name="a", image="b")


@chute.on_startup(prio=1)  # call-arg
async def load(self: Writer) -> None:
    self.word = ["a"]  # attr-defined


@chute.cord(public_path="/a")  # call-arg
async def misspelt(self: Writer) -> None: ...


@chute.cord  # arg-type
async def without_parentheses(self: Writer) -> None: ...


@chute.cord(stream="yes")  # arg-type
def write(self: Writer, count: int) -> list[str]:
    return self.words[:count]


@chute.job(timout=60)  # call-arg
async def misspelt_job(self: Writer) -> None: ...


@chute.job(timeout=60)
def train(self: Writer, steps: int) -> float:
    return steps / 2


def use() -> None:
    train(chute, step=3)  # call-arg
    train(chute, "3")  # arg-type
    train(chute, 3).upper()  # attr-defined
    write(chute, "3")  # arg-type
    print(chute.nam)  # attr-defined
