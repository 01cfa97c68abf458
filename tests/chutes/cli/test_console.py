import pytest
import typer

from chutes.cli._console import fail, say, size


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (33_740_000_000, "33.7 GB"), (2.5e12, "2.5 TB")],
)
def test_sizes_as_people_read_them(count: float, text: str) -> None:
    assert size(count) == text


def test_a_failure_is_one_line_whatever_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        fail("two\nlines\n", code=3)
    assert ended.value.exit_code == 3
    assert capsys.readouterr().err == "Error: two lines\n"


def test_what_a_remote_said_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        fail("the hub answered \x1b]0;title\x07\x9b2J\u202ekcab")
    say("loading \x1b[2J\rdone\nsecond line")
    failed, *said = capsys.readouterr().err.splitlines()
    assert failed == r"Error: the hub answered \x1b]0;title\x07\x9b2J\u202ekcab"
    assert said == [r"loading \x1b[2J\rdone", "second line"]
