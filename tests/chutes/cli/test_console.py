import pytest
import typer

from chutes.cli._console import fail, format_bytes, note


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (33_740_000_000, "33.7 GB"), (2.5e12, "2.5 TB")],
)
def test_bytes_have_a_decimal_unit(count: float, text: str) -> None:
    assert format_bytes(count) == text


def test_an_error_is_one_line_that_ends_with_a_period(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        fail("two\nlines\n", code=3)
    assert ended.value.exit_code == 3
    assert capsys.readouterr().err == "Error: two lines.\n"


def test_control_characters_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        fail("the hub answered \x1b]0;title\x07\x9b2J\u202ekcab")
    note("loading \x1b[2J\rdone\nsecond line")
    failed, *notes = capsys.readouterr().err.splitlines()
    assert failed == r"Error: the hub answered \x1b]0;title\x07\x9b2J\u202ekcab."
    assert notes == [r"loading \x1b[2J\rdone", "second line"]
