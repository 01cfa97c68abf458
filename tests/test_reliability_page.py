from benchmarks.hostile import cluster, page
from benchmarks.hostile.attack import Row
from benchmarks.hostile.inputs import select
from benchmarks.hostile.rows import ROWS


def test_the_page_shows_the_results_on_disk() -> None:
    text = page.PAGE.read_text("utf-8")
    assert page.render(text, page.read_all()) == text


def test_each_input_has_a_unique_name_and_a_section_on_the_page() -> None:
    names = [(row.section, row.name) for row in ROWS]
    assert len(set(names)) == len(names)
    assert {row.section for row in ROWS} <= page.HEADINGS.keys()


def test_inputs_are_selected_by_section_or_by_name() -> None:
    def names(rows: list[Row]) -> set[str]:
        return {row.name for row in rows}

    sections = {row.section for row in select(["A1"], [])}
    assert sections == {"A1"}
    assert names(select(["A1"], ["64 KB"])) == names(select(["A1"], [])) - names(select(["64 KB"], []))


def test_the_input_table_shows_missed_targets() -> None:
    row = {"section": "A1", "input": "a|b", "answer": "200", "seconds": 1.0, "health_ms": 300.0, "growth_mib": 1.0}
    result = {
        "when": "2026-01-01T00:00:00Z",
        "machine": {"python": "3.11", "cpus": 2},
        "rows": [{**row, "missed": ["slow"]}],
    }
    table = page.inputs_table(result)
    assert r"| a\|b | 200 | 1.00 | 300 | +1 | **slow** |" in table
    assert "1 inputs: 0 met every target, 1 missed one." in table


def test_inputs_for_the_cluster_use_the_host_name_of_its_chute() -> None:
    head = next(iter(next(row for row in cluster.rows() if row.name == "two Hosts").build()))
    assert head == b"GET /health HTTP/1.1\r\nHost: benchmark-hostile.localhost\r\nHost: localhost\r\n\r\n"


def test_the_cluster_table_marks_missed_targets() -> None:
    bad = {"answer": "200", "seconds": 2.0, "health_ms": 300.0, "growth_mib": 300.0, "missed": ["expected 431"]}
    good = {"answer": "431", "seconds": 1.0, "health_ms": 30.0, "growth_mib": 1.0, "missed": []}
    result = {
        "when": "2026-01-01T00:00:00Z",
        "machine": {"python": "3.11", "cpus": 2},
        "versions": {"ray": "2", "nginx": "1"},
        "targets": {"health_ms": 250, "growth_mib": 256},
        "rows": [
            {"input": "a", "ray": bad, "nginx": good},
            {"input": "b", "ray": {**good, "growth_mib": None}, "nginx": good},
        ],
    }
    table = page.cluster_table(result)
    assert "| a | **200** | 2.00 | **300** | **+300** | 431 | 1.00 | 30 | +1 |" in table
    assert "| b | 431 | 1.00 | 30 | **lost** | 431 | 1.00 | 30 | +1 |" in table
