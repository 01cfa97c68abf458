import pytest

from chutes.deploy.application import from_json, to_json
from chutes.deploy.registry import DeployedChute, UnknownChute, find
from tests.chutes.deploy.specs import make_spec

DETAILS = {
    "status": "RUNNING",
    "deployments": {
        "chute": {
            "replicas": [
                {"replica_id": "b", "state": "STARTING", "start_time_s": 2.0},
                {"replica_id": "a", "state": "RUNNING", "start_time_s": 1.0},
            ]
        }
    },
}
FLUX = DeployedChute("myuser-flux-1-dev-generator", make_spec(), DETAILS)
FOREIGN = DeployedChute("somebodys-app", None, {"status": "DEPLOYING"})


@pytest.mark.parametrize(
    "name",
    ["FLUX.1-dev-generator", "flux.1-dev-generator", "my-image-gen", "myuser-flux-1-dev-generator", FLUX.spec.uid],
)
def test_a_chute_is_found_by_each_of_its_names(name: str) -> None:
    assert find(name, [FOREIGN, FLUX]) is FLUX


def test_a_module_that_is_deployed_twice_is_ambiguous() -> None:
    second = DeployedChute("myuser-second", make_spec(name="Second"), DETAILS)
    with pytest.raises(UnknownChute, match=r"from my-image-gen: FLUX\.1-dev-generator, Second\. Use the name"):
        find("my-image-gen", [FLUX, second])
    assert find("second", [FLUX, second]) is second


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownChute, match=r"deployed\. Did you mean 'my-image-gen'"):
        find("my-imge-gen", [FOREIGN, FLUX])
    with pytest.raises(UnknownChute, match="Deployed chutes: somebodys-app, FLUX"):
        find("xyz", [FOREIGN, FLUX])
    with pytest.raises(UnknownChute, match=r"No chute named xyz is deployed\.$"):
        find("xyz", [])


def test_states_are_lower_case_and_the_oldest_replica_is_first() -> None:
    assert FLUX.status == "running"
    assert [(each["replica_id"], each["state"]) for each in FLUX.replicas] == [("a", "running"), ("b", "starting")]
    assert FOREIGN.replicas == []
    assert FOREIGN.name == "somebodys-app"


def test_a_spec_survives_its_round_trip() -> None:
    assert from_json(to_json(FLUX.spec)) == FLUX.spec
