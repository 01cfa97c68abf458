import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chutes.exception import ChutesWarning
from chutes.image import Image
from chutes.image.directive import RUN
from chutes.image.standard.diffusion import DIFFUSION
from chutes.image.standard.sglang import SGLANG
from chutes.image.standard.vllm import VLLM

HADOLINT = Path(sys.executable).with_name("hadolint")


def make(**options: Any) -> Image:
    return Image(**{"username": "myuser", "name": "test", "tag": "1.0"} | options)


def lines(image: Image) -> list[str]:
    """The lines after the first one, without comments for hadolint."""
    return [line for line in str(image).splitlines()[1:] if not line.startswith("# hadolint")]


@pytest.mark.parametrize(
    ("username", "name", "tag", "uid"),
    [
        ("chutes", "sglang", "0.5.13-post1c", "a3028618-6f8f-5afc-9a51-8eff25f2e5c8"),
        ("myuser", "flux.1-dev", "0.0.2", "48b1f5d7-dea7-5146-83d7-5507812ce180"),
        ("MyUser", "FLUX.1-dev", "0.0.2", "48b1f5d7-dea7-5146-83d7-5507812ce180"),
    ],
)
def test_uid(username: str, name: str, tag: str, uid: str) -> None:
    assert Image(username, name, tag).uid == uid


@pytest.mark.parametrize("name", ["", "a/b", "-a", ".a", "a b", "a:b"])
def test_invalid_names_and_tags_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="Invalid image name"):
        make(name=name)
    with pytest.raises(ValueError, match="Invalid image tag"):
        make(tag=name)
    image = make()
    with pytest.raises(ValueError, match="Invalid image tag"):
        image.tag = name


def test_a_minimal_image() -> None:
    assert str(Image("u", "n", "t")) == "FROM parachutes/python:3.12"
    assert Image("u", "n", "t", "about it").readme == "about it"
    assert str(make().from_base("nvidia/cuda:12.4.1-runtime-ubuntu22.04")) == (
        "FROM nvidia/cuda:12.4.1-runtime-ubuntu22.04"
    )


@pytest.mark.parametrize(
    "reference",
    ["ubuntu", "ubuntu:22.04", "localhost:5000/a/b:c", "ghcr.io/a/b@sha256:" + "0" * 64, "a/b:c@sha256:" + "f" * 64],
)
def test_base_images(reference: str) -> None:
    image = make().with_env("A", "b").from_base("first").from_base(reference)
    assert str(image) == f"FROM {reference}\nENV A=b"


@pytest.mark.parametrize("reference", ["", "a b", "a:b:c", "a@sha256:1", "a\nRUN x"])
def test_invalid_base_images_are_refused(reference: str) -> None:
    with pytest.raises(AssertionError):
        make().from_base(reference)


def test_keyword_arguments_of_the_hosted_platform() -> None:
    image = make(base_image="ubuntu:22.04", python_version="3.11", description="about it")
    assert str(image).startswith("FROM ubuntu:22.04\n")
    assert "Python-3.11." in str(image)
    assert image.readme == "about it"
    assert str(make(python_version="3.12")) == "FROM parachutes/python:3.12"
    with pytest.warns(ChutesWarning, match="Did you mean 'base_image'"):
        make(base_img="x")


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda i: i.run_command("echo a"), ["RUN echo a"]),
        (lambda i: i.run("echo a"), ["RUN echo a"]),
        (
            lambda i: i.apt_install("git"),
            [
                (
                    "RUN apt-get update"
                    " && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends git"
                    " && rm -rf /var/lib/apt/lists/*"
                )
            ],
        ),
        (lambda i: i.apt_remove(["a", "b"]), ["RUN apt-get remove -y a b"]),
        (
            lambda i: i.pip_install(
                "torch>=2.4", ["uvicorn[standard]", "-r requirements.txt"], index_url="https://x/y"
            ),
            [
                'RUN pip install --no-cache-dir "torch>=2.4" "uvicorn[standard]" -r requirements.txt --index-url https://x/y'
            ],
        ),
        (lambda i: i.with_env("KEY", "value"), ["ENV KEY=value"]),
        (lambda i: i.with_env("A", "b c"), ['ENV A="b c"']),
        (lambda i: i.env("A", 'say "x" \\ $B'), ['ENV A="say \\"x\\" \\\\ $B"']),
        (lambda i: i.with_env("A", ""), ['ENV A=""']),
        (lambda i: i.with_env("N", 3), ["ENV N=3"]),
        (lambda i: i.set_workdir("/app"), ["WORKDIR /app"]),
        (lambda i: i.with_workdir("/app"), ["WORKDIR /app"]),
        (lambda i: i.set_user("chutes"), ["USER chutes"]),
        (lambda i: i.with_user("1000"), ["USER 1000"]),
        (lambda i: i.with_maintainer("me <me@x.y>"), ['LABEL maintainer="me <me@x.y>"']),
        (lambda i: i.with_label("org.title", "a b"), ['LABEL org.title="a b"']),
        (lambda i: i.expose_port(8000), ["EXPOSE 8000"]),
        (lambda i: i.with_arg("A").with_arg("B", "c d"), ["ARG A", 'ARG B="c d"']),
        (lambda i: i.with_entrypoint("python"), ['ENTRYPOINT ["python"]']),
        (lambda i: i.with_entrypoint("python -m x"), ['ENTRYPOINT ["python", "-m", "x"]']),
        (lambda i: i.with_entrypoint("python", "-m", "x"), ['ENTRYPOINT ["python", "-m", "x"]']),
        (lambda i: i.with_entrypoint("a").with_entrypoint(["b", "c d"]), ['ENTRYPOINT ["b", "c d"]']),
        (
            lambda i: i.with_healthcheck("curl -f http://x || exit 1", interval=30, timeout="5s", retries=3),
            ['HEALTHCHECK --interval=30s --timeout=5s --retries=3 CMD ["/bin/sh", "-c", "curl -f http://x || exit 1"]'],
        ),
        (
            lambda i: i.with_healthcheck("a").with_healthcheck(["b"], start_period=0.5),
            ['HEALTHCHECK --start-period=0.5s CMD ["b"]'],
        ),
    ],
)
def test_directives(build: Callable[[Image], Image], expected: list[str]) -> None:
    image = make()
    assert build(image) is image
    assert lines(image) == expected


REFUSED: list[Callable[[Image], Image]] = [
    lambda i: i.apt_install("a; rm -rf /"),
    lambda i: i.apt_install([]),
    lambda i: i.apt_remove("$(x)"),
    lambda i: i.pip_install(),
    lambda i: i.with_env("1A", "x"),
    lambda i: i.with_env("A B", "x"),
    lambda i: i.with_arg("A=B"),
    lambda i: i.with_label("A B", "x"),
    lambda i: i.expose_port(0),
    lambda i: i.expose_port(65_536),
    lambda i: i.with_healthcheck("x", interval="soon"),
    lambda i: i.add("https://x/y", "/y", checksum="sha256:1"),
    lambda i: i.add("https://x/y", "/y", chown="a b"),
    lambda i: i.add("https://x/y", "/y", chmod="999"),
    lambda i: i.add("nowhere/*.py", "/app"),
]


@pytest.mark.parametrize("build", REFUSED, ids=range(len(REFUSED)))
def test_invalid_arguments_are_refused(build: Callable[[Image], Image]) -> None:
    with pytest.raises(AssertionError):
        build(make())


@pytest.mark.parametrize(
    "build",
    [lambda i: i.with_env("A", "x\nRUN y"), lambda i: i.set_workdir("/a\nRUN y"), lambda i: i.with_label("a", "\n")],
    ids=["env", "workdir", "label"],
)
def test_a_value_cannot_add_a_line(build: Callable[[Image], Image]) -> None:
    with pytest.raises(ValueError, match="must not contain a line break"):
        build(make())


def test_package_names_and_versions_of_debian() -> None:
    image = make().apt_install("libstdc++6 python3.11", "git=1:2.34.1-1ubuntu1~22.04")
    assert "libstdc++6 python3.11 git=1:2.34.1-1ubuntu1~22.04 " in str(image)


def test_add_and_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b").mkdir()
    (tmp_path / "x.py").touch()
    (tmp_path / "w.tar.gz").touch()
    checksum = "sha256:" + "1" * 64
    image = (
        make()
        .add("*.py", "/app/", chown="chutes:chutes", chmod="755")
        .add(str(tmp_path / "x.py"), "/app/")
        .copy("a b", "/c d")
        .copy_file("x.py", "/app/y.py")
        .add("w.tar.gz", "/weights")
        .add("https://x.y/z", "/z", checksum=checksum)
        .add("https://x.y/z.git", "/z", keep_git_dir=True)
    )
    assert lines(image) == [
        "COPY --chown=chutes:chutes --chmod=755 *.py /app/",
        f"COPY {tmp_path}/x.py /app/",
        'COPY ["a b", "/c d"]',
        "COPY x.py /app/y.py",
        "ADD w.tar.gz /weights",
        f"ADD --checksum={checksum} https://x.y/z /z",
        "ADD --keep-git-dir=true https://x.y/z.git /z",
    ]
    assert image.sources == ["*.py", f"{tmp_path}/x.py", "a b", "x.py", "w.tar.gz"]


@pytest.mark.parametrize(("option", "value"), [("exclude", ["*.log"]), ("build_dir", "build")])
def test_an_option_without_effect_warns_at_the_authors_line(option: str, value: Any, tmp_path: Path) -> None:
    with pytest.warns(ChutesWarning) as caught:
        make().add(str(tmp_path), "/x", **{option: value})
    (warning,) = caught
    assert str(warning.message) == f"Image.add: {option}={value!r} has no effect."
    assert warning.filename == __file__


def test_inside_a_built_image_no_source_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHUTES_EXECUTION_CONTEXT", "REMOTE")
    assert lines(make().add("nowhere", "/x").copy("nowhere", "/x")) == []


def test_multiline_commands() -> None:
    one = make().run_command("apt-get update \\\n  && echo a")
    assert lines(one) == ["RUN apt-get update \\", "  && echo a"]
    script = make().run_command("\nset -x\nfor i in 1 2; do\n  echo $i\ndone\n").run_command("echo EOF\nEOF")
    assert str(script).splitlines()[1:9] == [
        "RUN <<EOF", "set -e", "set -x", "for i in 1 2; do", "  echo $i", "done", "EOF", "",
    ]  # fmt: skip
    assert "RUN <<EOF_\nset -e\necho EOF\nEOF\nEOF_" in str(script)


def test_directives_can_be_appended() -> None:
    image = make()
    image._directives.append(RUN("pip install x"))
    assert lines(image) == ["RUN pip install x"]


def everything() -> Image:
    return (
        make(base_image="nvidia/cuda:12.4.1-runtime-ubuntu22.04", python_version="3.11")
        .with_arg("VERSION", "1")
        .apt_install(["git", "curl"])
        .apt_remove("curl")
        .pip_install("torch>=2.4", "diffusers==0.42.1", "uvicorn[standard]")
        .run_command("echo one")
        .run_command("echo two\necho three")
        .with_env("HF_HOME", "/cache dir")
        .with_env("PATH", "/opt/bin:$PATH")
        .set_workdir("/app")
        .copy("pyproject.toml", "/app/", chown="chutes:chutes")
        .add("https://x.y/z", "/z")
        .with_maintainer("me")
        .with_label("org.title", "test")
        .expose_port(8000)
        .with_healthcheck("curl -f http://localhost:8000/health || exit 1", interval=30, start_period="10m")
        .set_user("chutes")
        .with_entrypoint("chutes run app:chute")
    )


def test_hadolint_finds_nothing() -> None:
    """With its default rules. Those that concern the author's decisions are turned off in the Dockerfile."""
    found = subprocess.run(
        [HADOLINT, "--no-color", "--format", "json", "-"],
        input=str(everything()),
        text=True,
        capture_output=True,
        check=False,
        cwd="/",
    )
    assert json.loads(found.stdout) == []
    assert found.returncode == 0


def test_rules_are_turned_off_only_where_they_would_match() -> None:
    image = make(base_image="ubuntu:22.04").apt_install("git=1").with_user("1000:1000").pip_install("a==1")
    assert "hadolint" not in str(image)


def test_names_of_prebuilt_images() -> None:
    assert VLLM == "chutes/vllm:nightly-2025111700"
    assert SGLANG == "chutes/sglang:nightly-2025111800"
    assert DIFFUSION == "chutes/diffusion:0.34.0.po"
