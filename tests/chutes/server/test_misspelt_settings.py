import re
from pathlib import Path

import pytest

from chutes.server import Settings
from chutes.server.misspelt_settings import misspelt_settings

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("variable", "setting"),
    [
        ("CHUTES_QUEUESIZE", "CHUTES_QUEUE_SIZE"),
        ("CHUTES_QUEUE_SIZES", "CHUTES_QUEUE_SIZE"),
        ("CHUTES_QEUUE_SIZE", "CHUTES_QUEUE_SIZE"),
        ("chutes_cors_origin", "CHUTES_CORS_ORIGINS"),
        ("CHUTES_LOGLEVEL", "CHUTES_LOG_LEVEL"),
        ("CHUTES_PROT", "CHUTES_PORT"),
        ("CHUTES_KEY_FILE", "CHUTES_KEYS_FILE"),
        ("CHUTES_API_KEY", "CHUTES_API_KEYS"),
    ],
)
def test_a_name_within_two_edits_of_a_setting_is_reported(variable: str, setting: str) -> None:
    (message,) = misspelt_settings({"PATH": "/bin", variable: "3"})
    assert message == f"{variable} is not a setting and has no effect. Did you mean {setting}?"


@pytest.mark.parametrize("variable", ["CHUTES_SOMETHING_ELSE", "CHUTE_PORT", "QUEUESIZE", "CHUTES_QUEUSZ", "CHUTES_"])
def test_other_names_are_not_reported(variable: str) -> None:
    assert not list(misspelt_settings({variable: "3"}))


def test_settings_themselves_and_empty_variables_are_not_reported() -> None:
    names = [f"CHUTES_{name}" for name in Settings.model_fields]
    environment = {**{name.upper(): "1" for name in names}, **{name.lower(): "1" for name in names}}
    assert not list(misspelt_settings({**environment, "CHUTES_QUEUESIZE": ""}))


@pytest.mark.parametrize("service", ["CHUTES", "CHUTES_HO", "CHUTES_P", "CHUTES_HOST", "CHUTES_KEYS"])
def test_service_links_of_kubernetes_and_docker_are_not_reported(service: str) -> None:
    links = {
        f"{service}_SERVICE_HOST": "10.0.0.1",
        f"{service}_SERVICE_PORT": "8000",
        f"{service}_SERVICE_PORT_HTTP": "8000",
        f"{service}_PORT": "tcp://10.0.0.1:8000",
        f"{service}_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        f"{service}_PORT_8000_TCP_PROTO": "tcp",
        f"{service}_PORT_8000_TCP_PORT": "8000",
        f"{service}_PORT_8000_TCP_ADDR": "10.0.0.1",
        f"{service}_NAME": "/web/chutes",
    }
    assert not list(misspelt_settings(links))


def test_other_variables_of_this_project_and_of_the_hosted_platform_are_not_reported() -> None:
    platform = (
        "EXECUTION_CONTEXT DEV_MODE DEV_URL CONFIG_PATH API_URL ALLOW_MISSING PORT_PRIMARY PORT_LOGGING EXTERNAL_HOST "
        "LAUNCH_JWT"
    )
    files = [ROOT / "docker-compose.yml", ROOT / "Dockerfile", ROOT / "Makefile", *(ROOT / "deploy").rglob("*")]
    files += [*(ROOT / "src").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
    text = "".join(file.read_text() for file in files if file.is_file())
    used = set(re.findall(r"\bCHUTES_[A-Z_]+\b", text))
    assert len(used) > 20
    assert not list(misspelt_settings(dict.fromkeys([*used, *(f"CHUTES_{name}" for name in platform.split())], "x")))
