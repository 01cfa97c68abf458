import pytest

from chutes.image._shell import quote_requirements


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("pip3 install torch>=2.4.0 torchvision", 'pip3 install "torch>=2.4.0" torchvision'),
        ("pip install a>1 b<2,>=1.5 c[x,y]>=1.0rc1", 'pip install "a>1" "b<2,>=1.5" "c[x,y]>=1.0rc1"'),
        ("python3.11 -m pip install -U a>=1.*", 'python3.11 -m pip install -U "a>=1.*"'),
        ("uv pip install a>=1.0+cu124", 'uv pip install "a>=1.0+cu124"'),
        ("pip --no-color install a>=1", 'pip --no-color install "a>=1"'),
        ("pip install a>=1 \\\n  b>=2 && echo x", 'pip install "a>=1" \\\n  "b>=2" && echo x'),
        ("apt update && pip install a>=1", 'apt update && pip install "a>=1"'),
        ("pip install a>=1; pip install b>=2", 'pip install "a>=1"; pip install "b>=2"'),
        ("pip install a>=1 > /tmp/log 2>&1", 'pip install "a>=1" > /tmp/log 2>&1'),
    ],
)
def test_requirements_are_quoted(written: str, meant: str) -> None:
    assert quote_requirements(written) == meant


@pytest.mark.parametrize(
    "command",
    [
        "pip install 'a>=1' \"b>=2\"",
        "pip install a > log",
        "pip install a >log 2>/dev/null",
        "pip install a 2>err.log",
        "pip install a==1 b~=2",
        "echo pip>=2",
        "pip freeze > /requirements.txt",
        "pip install a && echo b>=2",
        "cat a>=1",
        'pip install "a" | tee x>=1',
        "pip install out>log.txt",
    ],
)
def test_redirections_and_other_commands_are_unchanged(command: str) -> None:
    assert quote_requirements(command) == command
