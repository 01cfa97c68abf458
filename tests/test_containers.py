"""Dockerfile and compose file: linted, validated against a schema, and the Dockerfile's own commands executed.

These tests need no Docker engine: they run the Dockerfile's steps in an empty folder that takes the place of the
image's root. With `CHUTES_TEST_CLEAN=1` its virtual environment is a clean one, for which pip downloads torch.
data/compose-spec.json is the schema of the compose specification (Apache-2.0).
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from benchmarks.harness.waiting import LIMIT
from chutes._version import version

ROOT = Path.cwd()
CLEAN = bool(os.environ.get("CHUTES_TEST_CLEAN"))
HAS_COMPOSE = (
    shutil.which("docker") is not None
    and subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
)


def steps() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions as keyword and arguments, with continued lines joined."""
    lines = [line for line in Path("Dockerfile").read_text().splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", "")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines()) if word]


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(Path("docker-compose.yml").read_text())
    return loaded


def server() -> dict[str, Any]:
    found: dict[str, Any] = compose()["services"]["server"]
    return found


def interpolate(text: str, values: dict[str, str]) -> str:
    """Replace variables as compose does: `${NAME:-default}`, also nested, and `${NAME:?message}`."""
    pattern = re.compile(r"\$\{(\w+)(?::([-?])([^${}]*))?\}")

    def value(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        if values.get(name):
            return values[name]
        if kind == "?":
            raise KeyError(rest)
        return rest or ""

    while pattern.search(text):
        text = pattern.sub(value, text)
    return text


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    tool = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run([tool, "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_base_is_pinned_and_the_user_is_not_root() -> None:
    told = dict(steps())
    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-runtime-ubuntu24\.04", told["FROM"])
    users = [rest for word, rest in steps() if word == "USER"]
    assert users == ["10001:10001"]
    assert any("useradd --create-home --uid 10001 chutes" in rest for word, rest in steps() if word == "RUN")
    assert json.loads(told["CMD"])[:5] == ["chutes", "run", "chutes_app:chute", "--host", "0.0.0.0"]


def test_requirements_are_installed_before_the_source_is_copied() -> None:
    order = [f"{word} {rest}" for word, rest in steps()]
    install = next(i for i, step in enumerate(order) if "pip install -r" in step)
    before = [step for step in order[:install] if step.startswith("COPY")]
    assert before == ["COPY pyproject.toml constraints.txt ./"]
    assert "-c constraints.txt" in order[install]


def test_the_build_context_holds_only_what_is_copied() -> None:
    lines = [line for line in Path(".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    copied = {source for word, rest in steps() if word == "COPY" for source in rest.split()[:-1]}
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == copied


class Image:
    """A folder in place of an image's root, in which the Dockerfile's steps run one after another."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.workdir = root
        self.skipped: list[str] = []
        home = root / "home/chutes"
        home.mkdir(parents=True)
        self.env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(home)}
        for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONFIG_FILE", "SSL_CERT_FILE", "HTTPS_PROXY"):
            if name in os.environ:
                self.env[name] = os.environ[name]

    def path(self, text: str) -> str:
        return re.sub(r"(?<![\w.])/(opt|app|home/chutes)\b", rf"{self.root}/\1", text)

    def step(self, word: str, rest: str) -> None:
        if word == "ARG":
            name, _, value = rest.partition("=")
            self.env[name] = value
        elif word == "ENV":
            for name, value in re.findall(r"(\w+)=(\S+)", self.path(rest)):
                self.env[name] = value.replace("$PATH", self.env["PATH"])
        elif word == "WORKDIR":
            self.workdir = Path(self.path(rest))
            self.workdir.mkdir(parents=True, exist_ok=True)
        elif word == "COPY":
            self.copy(*rest.split())
        elif word == "RUN" and rest.startswith(("apt-get", "useradd")):
            self.skipped.append(rest)
        elif word == "RUN":
            self.run(rest)

    def copy(self, *names: str) -> None:
        *sources, target = names
        for source in sources:
            if (ROOT / source).is_dir():
                ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
                shutil.copytree(ROOT / source, self.workdir / target, ignore=ignore)
            else:
                shutil.copy(ROOT / source, self.workdir / target)

    def run(self, command: str) -> None:
        done = subprocess.run(
            ["bash", "-c", self.path(command)],
            cwd=self.workdir,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        if "-m venv" in command and not CLEAN:
            (site,) = (self.root / "opt/chutes/lib").glob("python3*/site-packages")
            (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    built = Image(tmp_path_factory.mktemp("image"))
    for word, rest in steps():
        built.step(word, rest)
    return built


def test_the_steps_install_this_version_on_the_path(image: Image) -> None:
    assert len(image.skipped) == 2, "apt-get and useradd alone are left out"
    where = shutil.which("chutes", path=image.env["PATH"])
    assert where == f"{image.root}/opt/chutes/bin/chutes"
    code = "import chutes, imagegen; print(chutes.__file__); print(imagegen.__file__)"
    python = f"{image.root}/opt/chutes/bin/python"
    told = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, cwd="/", env=image.env)
    assert all(line.startswith(f"{image.root}/opt/chutes/lib") for line in told.stdout.splitlines()), told.stdout
    shown = subprocess.run([where, "--version"], capture_output=True, text=True, check=True, env=image.env)
    assert shown.stdout == f"chutes {version}\n"
    subprocess.run([where, "init", "fresh"], check=True, capture_output=True, env=image.env, cwd=image.root)
    assert (image.root / "fresh.py").is_file(), "what is no Python file is in the package too"


def test_the_command_serves_and_stops_with_code_0(image: Image, bundled: Path) -> None:
    told = dict(steps())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [part.replace("8000", port) for part in json.loads(told["CMD"])]
    check = [part.replace("8000", port) for part in json.loads(told["HEALTHCHECK"].partition("CMD ")[2])]
    env = {**image.env, "CHUTES_API_KEYS": "key", "OMP_NUM_THREADS": "1", "IMAGEGEN_MODEL": str(bundled)}
    with subprocess.Popen(command, cwd=image.workdir, env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            began = time.monotonic()
            while subprocess.run(check, env=env, capture_output=True, check=False).returncode != 0:
                assert process.poll() is None, process.stderr.read() if process.stderr else ""
                assert time.monotonic() - began < LIMIT
            print(f"healthy after {time.monotonic() - began:.1f} s")
            process.send_signal(signal.SIGTERM)
            assert process.wait(LIMIT) == 0
        finally:
            process.kill()


def test_the_compose_file_is_valid() -> None:
    schema = json.loads(Path("tests/data/compose-spec.json").read_text())
    validator = jsonschema.Draft7Validator(schema)  # named, because the schema refers to its draft by an unknown URL
    validator.validate(compose())
    broken = compose()
    broken["services"]["server"]["restrat"] = "always"
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(broken)


def test_compose_requires_an_api_key() -> None:
    text = Path("docker-compose.yml").read_text()
    with pytest.raises(KeyError, match="set CHUTES_API_KEYS"):
        interpolate(text, {})
    told = yaml.safe_load(interpolate(text, {"CHUTES_API_KEYS": "a"}))
    assert told["services"]["server"]["environment"]["CHUTES_API_KEYS"] == "a"
    assert told["configs"]["metrics_key"]["content"] == "a"


def test_ports_are_published_on_loopback_by_default() -> None:
    text = Path("docker-compose.yml").read_text()
    for services, expected in (
        (yaml.safe_load(interpolate(text, {"CHUTES_API_KEYS": "a"})), "127.0.0.1"),
        (yaml.safe_load(interpolate(text, {"CHUTES_API_KEYS": "a", "CHUTES_PUBLISH": "0.0.0.0:80"})), "0.0.0.0"),
    ):
        ports = {name: service.get("ports", []) for name, service in services["services"].items()}
        assert ports["server"][0].startswith(expected)
        others = [port for name, all_ports in ports.items() if name != "server" for port in all_ports]
        assert len(others) == 3
        assert all(port.startswith("127.0.0.1:") for port in others)


def test_the_model_is_downloaded_into_the_volume_of_the_server() -> None:
    fetch = compose()["services"]["fetch"]
    assert fetch["environment"]["IMAGEGEN_MODEL"] == server()["environment"]["IMAGEGEN_MODEL"]
    assert "HF_TOKEN" in fetch["environment"]
    assert "HF_TOKEN" not in server()["environment"]
    assert fetch["volumes"] == server()["volumes"] == ["cache:/home/chutes/.cache"]
    assert server()["depends_on"]["fetch"] == {"condition": "service_completed_successfully"}
    assert fetch["restart"] == "no"


@pytest.mark.parametrize(
    ("given", "model", "fetched"),
    [
        ({}, "black-forest-labs/FLUX.1-dev", True),
        ({"IMAGEGEN_MODEL": "a/b"}, "a/b", True),
        ({"CHUTES_MODEL": "a/b"}, "a/b", True),
        ({"IMAGEGEN_MODEL": "a/b; touch x", "CHUTES_MODEL": "c/d"}, "a/b; touch x", True),
        ({"IMAGEGEN_MODEL": "bundled"}, "bundled", False),
        ({"IMAGEGEN_MODEL": "/models/mine"}, "/models/mine", False),
    ],
)
def test_the_chosen_model_is_downloaded_and_served(
    given: dict[str, str], model: str, fetched: bool, tmp_path: Path
) -> None:
    services = yaml.safe_load(interpolate(Path("docker-compose.yml").read_text(), {"CHUTES_API_KEYS": "a", **given}))[
        "services"
    ]
    assert services["server"]["environment"]["IMAGEGEN_MODEL"] == model
    fetch = services["fetch"]
    (tmp_path / "chutes").write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    (tmp_path / "chutes").chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "IMAGEGEN_MODEL": fetch["environment"]["IMAGEGEN_MODEL"]}
    command = [part.replace("$$", "$") for part in fetch["command"]]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == (f"download|{model}|" if fetched else "")


@pytest.mark.skipif(not HAS_COMPOSE, reason="docker compose is not installed")
def test_docker_compose_passes_the_model_and_settings_on() -> None:
    chosen = {"CHUTES_API_KEYS": "a", "IMAGEGEN_MODEL": "a/b", "CHUTES_QUEUE_SIZE": "3"}
    command = ["docker", "compose", "config", "--format", "json"]
    done = subprocess.run(
        command, env={"PATH": os.environ["PATH"], **chosen}, capture_output=True, text=True, check=True
    )
    services = json.loads(done.stdout)["services"]
    environment = services["server"]["environment"]
    assert {name: environment[name] for name in chosen} == chosen
    assert services["fetch"]["environment"]["IMAGEGEN_MODEL"] == "a/b"


# Settings that the compose file does not pass to the server, and why.
NOT_PASSED_ON = {
    "CHUTES_HOST": "the container listens on all its interfaces; CHUTES_PUBLISH sets the address outside",
    "CHUTES_PORT": "the container listens on 8000; CHUTES_PUBLISH sets the port outside",
    "CHUTES_KEYS_FILE": "CHUTES_API_KEYS is required",
    "CHUTES_NO_AUTH": "CHUTES_API_KEYS is required",
    "HF_HOME": "the cache is in a volume",
    "HF_TOKEN": "only the download needs it",
}


def test_every_setting_reaches_the_server() -> None:
    from chutes.server.settings import Settings
    from imagegen.settings import Settings as ImagegenSettings

    passed_on = {name for name, value in server()["environment"].items() if value is None}
    known = {f"CHUTES_{name.upper()}" for name in Settings.model_fields}
    known |= {f"IMAGEGEN_{name.upper()}" for name in ImagegenSettings.model_fields}
    table = Path("docs/settings.md").read_text()
    known |= set(re.findall(r"`((?:CHUTES|IMAGEGEN|HF)_[A-Z_]+)`", table))
    assert known - passed_on == {"CHUTES_API_KEYS", "IMAGEGEN_MODEL", *NOT_PASSED_ON}


def test_the_server_has_a_gpu_a_grace_period_and_a_restart_policy() -> None:
    from chutes.server.settings import Settings

    (device,) = server()["deploy"]["resources"]["reservations"]["devices"]
    assert (device["count"], device["capabilities"]) == (1, ["gpu"])
    assert server()["shm_size"]
    assert int(interpolate(server()["stop_grace_period"], {}).rstrip("s")) > Settings().drain_grace
    assert server()["restart"] == "unless-stopped"
    assert server()["healthcheck"]["start_period"] == "20m"


def test_the_image_tag_is_this_version() -> None:
    services = compose()["services"]
    assert services["server"]["image"] == services["fetch"]["image"] == f"chutes-selfhosted:{version}"
