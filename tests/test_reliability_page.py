from benchmarks.hostile import page
from benchmarks.hostile.attack import Row
from benchmarks.hostile.inputs import select
from benchmarks.hostile.rows import ROWS


def test_the_tables_are_those_of_the_results_that_are_kept() -> None:
    text = page.PAGE.read_text("utf-8")
    assert page.render(text, page.kept()) == text


def test_each_input_has_a_name_of_its_own_and_a_section_of_the_page() -> None:
    names = [(row.section, row.name) for row in ROWS]
    assert len(set(names)) == len(names)
    assert {row.section for row in ROWS} <= page.HEADINGS.keys()


def test_inputs_are_chosen_by_section_or_by_name() -> None:
    def names(rows: list[Row]) -> set[str]:
        return {row.name for row in rows}

    sections = {row.section for row in select(["A1"], [])}
    assert sections == {"A1"}
    assert names(select(["A1"], ["64 KB"])) == names(select(["A1"], [])) - names(select(["64 KB"], []))


def test_a_table_says_what_was_missed() -> None:
    row = {"section": "A1", "input": "a|b", "answer": "200", "seconds": 1.0, "health_ms": 300.0, "growth_mib": 1.0}
    result = {"when": "2026-01-01T00:00:00Z", "python": "3.11", "cpus": 2, "rows": [{**row, "missed": ["slow"]}]}
    table = page.inputs_table(result)
    assert r"| a\|b | 200 | 1.00 | 300 | +1 | **slow** |" in table
    assert "1 inputs, 0 within every target, 1 not." in table
