import pytest

from chutes._gpus import Gpu
from chutes.chute import NodeSelector
from chutes.deploy import placement
from chutes.deploy.placement import Node, Unschedulable

LARGE = Node("1", "10.0.0.1", (Gpu("h100_sxm", 80),), 2)
SMALL = Node("2", "10.0.0.2", (Gpu("4090", 24),), 4)
MIXED = Node("3", "10.0.0.3", (Gpu("3090", 24), Gpu("a100", 80)), 2)
BARE = Node("4", "10.0.0.4", (), 0)


@pytest.mark.parametrize(
    ("selector", "fitting"),
    [
        (NodeSelector(min_vram_gb_per_gpu=24), [LARGE, SMALL, MIXED]),
        (NodeSelector(min_vram_gb_per_gpu=80), [LARGE]),
        (NodeSelector(min_vram_gb_per_gpu=24, gpu_count=3), [SMALL]),
        (NodeSelector(min_vram_gb_per_gpu=24, include=["4090"]), [SMALL]),
        (NodeSelector(min_vram_gb_per_gpu=24, include=["h100"]), [LARGE]),
        (NodeSelector(min_vram_gb_per_gpu=24, exclude=["a100", "4090"]), [LARGE]),
        (NodeSelector(min_vram_gb_per_gpu=141), []),
    ],
)
def test_nodes_that_fit(selector: NodeSelector | None, fitting: list[Node]) -> None:
    assert [node for node in (LARGE, SMALL, MIXED, BARE) if placement.accepts(selector, node)] == fitting


def test_selects_by_label() -> None:
    options = placement.place(
        NodeSelector(min_vram_gb_per_gpu=141, gpu_count=2), [Node("5", "x", (Gpu("odd", 200),), 2)]
    )
    assert options["num_gpus"] == 2
    accepted = options["label_selector"][placement.LABEL].removeprefix("in(").removesuffix(")").split(",")
    assert "odd-200" in accepted  # the GPU of this node, although no table contains it
    assert "h200-141" in accepted  # a GPU of a node that may join later
    assert "h100_sxm-80" not in accepted


def test_the_error_lists_the_nodes() -> None:
    with pytest.raises(Unschedulable) as refused:
        placement.place(NodeSelector(min_vram_gb_per_gpu=141, exclude=["b200"]), [LARGE, SMALL])
    assert str(refused.value) == (
        "No node can run this chute. It needs 1 GPU with at least 141 GB, not b200; the cluster has "
        "2 x h100_sxm 80 GB on 10.0.0.1; 4 x 4090 24 GB on 10.0.0.2. "
        "Add a node that fits, or change the chute's node_selector."
    )


@pytest.mark.parametrize(("selector", "nodes"), [(None, [LARGE]), (NodeSelector(), [BARE]), (NodeSelector(), [])])
def test_a_cluster_without_gpus_ignores_the_selector(selector: NodeSelector | None, nodes: list[Node]) -> None:
    assert placement.place(selector, nodes) == {"num_cpus": 0}


def test_room_for_one_more_replica() -> None:
    selector = NodeSelector(min_vram_gb_per_gpu=80)
    assert placement.has_room(selector, [LARGE, SMALL], {"1": 1.0, "2": 0.0})
    assert not placement.has_room(selector, [LARGE, SMALL], {"2": 4.0})
    assert placement.has_room(None, [LARGE], {})


def test_the_label_survives_its_round_trip() -> None:
    cards = placement.fake_gpus("h100:80, 4090:24,4090:24")
    node = {
        "Alive": True,
        "NodeID": "7",
        "NodeManagerAddress": "10.0.0.7",
        "Labels": {placement.LABEL: placement.label(cards)},
        "Resources": {"GPU": 3.0, "CPU": 8.0},
    }
    assert placement.label(cards) == "4090-24.h100-80"
    assert placement.nodes([node, {**node, "Alive": False}]) == [
        Node("7", "10.0.0.7", (Gpu("4090", 24), Gpu("h100", 80)), 3)
    ]


@pytest.mark.parametrize("text", ["h100", "h100:", ":80", "h100:80,", "H 100:80"])
def test_malformed_fake_gpus_are_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="is not a GPU"):
        placement.fake_gpus(text)
