from docs import _generate


def test_the_settings_page_is_up_to_date() -> None:
    assert (_generate.DOCS / "settings.md").read_text("utf-8") == _generate.settings_page(), "run make docs"


def test_the_command_line_page_is_up_to_date() -> None:
    assert (_generate.DOCS / "command-line.md").read_text("utf-8") == _generate.command_line_page(), "run make docs"


def test_every_setting_and_option_is_described() -> None:
    for page in (_generate.settings_page(), _generate.command_line_page()):
        rows = [line for line in page.splitlines() if line.startswith("| `")]
        assert rows
        assert [row for row in rows if row.rstrip().endswith("|  |")] == []
