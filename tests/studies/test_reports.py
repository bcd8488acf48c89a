"""Reports: decided claims, files for people and programs, one page."""

import csv
import json
from dataclasses import replace
from pathlib import Path

from lightreasoner.evaluation.statistics import Interval
from lightreasoner.report import figures
from lightreasoner.studies.outcomes import Difference
from lightreasoner.studies.reports import Claim, P, Report, at_most, decide, decide_all, page, write

REPORT = Report(
    "Table 0: things",
    [
        {"setting": "base", "AVG": 20.04, "gain": None, "p": None, "seeds": 1},
        {"setting": "tuned", "AVG": 43.66, "gain": Interval(23.6, 21.0, 26.2), "p": P(0.00012), "seeds": 3},
    ],
    [Claim("it helps", "holds", "+23.6")],
    ["n = 5"],
)


def test_a_claim_is_decided_only_if_the_difference_is_significant() -> None:
    def verdict(gain: float, p_items: float, p_seeds: float | None) -> str:
        return decide("x", Difference(Interval(gain, gain - 1, gain + 1), p_items, p_seeds, 3)).verdict

    assert verdict(2.0, 0.01, 0.01) == "holds"
    assert verdict(-2.0, 0.01, 0.01) == "does not hold"
    assert verdict(2.0, 0.01, 0.3) == verdict(2.0, 0.3, 0.01) == "not decided"
    assert verdict(2.0, 0.01, None) == "holds"
    assert decide("x", Difference(Interval(2, 1, 3), 0.01, 0.01, 3), p_value=0.2).verdict == "not decided"
    assert [at_most("x", value, 5).verdict for value in (5.0, 5.1)] == ["holds", "does not hold"]


def test_several_claims_are_corrected_for_their_number() -> None:
    found = [Difference(Interval(2, 1, 3), p, p, 5) for p in (0.001, 0.04, 0.03)]
    claims = decide_all([(str(place), pair) for place, pair in enumerate(found)])
    assert [claim.verdict for claim in claims] == ["holds", "not decided", "not decided"]
    assert "after Holm's correction 0.06" in claims[1].evidence


def test_reports_are_written_for_people_and_programs(tmp_path: Path) -> None:
    files = write("table0", REPORT, tmp_path, {"quick": True})
    assert {path.name for path in files} == {"table0.md", "table0.csv", "table0.json"}
    text = (tmp_path / "table0.md").read_text()
    assert "| tuned   | 43.7 | +23.6 (+21.0 to +26.2) | 0.00012 | 3     |" in text
    assert "- it helps: **holds** (+23.6)." in text
    rows = list(csv.DictReader((tmp_path / "table0.csv").open()))
    assert rows[0] == {"setting": "base", "AVG": "20.0", "gain": "–", "p": "–", "seeds": "1"}
    content = json.loads((tmp_path / "table0.json").read_text())
    assert content["rows"][1]["gain"] == {"value": 23.6, "low": 21.0, "high": 26.2}
    assert content["rows"][1]["p"] == 0.00012
    assert content["environment"]["torch"]
    assert content["quick"] is True


def test_the_page_names_the_command_of_every_section_and_the_papers_figures(tmp_path: Path) -> None:
    drawn = replace(REPORT, draw=lambda: figures.grouped_bars(["a"], {"panel": {"series": [1.0]}}), data=[{"a": 1}])
    written, file = tmp_path / "reports", tmp_path / "docs" / "results.md"
    write("figure7", drawn, written, {})

    def write_page() -> str:
        page(
            file,
            {"table6": REPORT, "sweeps": REPORT, "figure7": drawn},
            written=written,
            missing=["table8"],
            command="lightr study {} --seeds 2",
            minutes=12.3,
            workers=2,
        )
        return file.read_text()

    file.parent.mkdir()
    text = write_page()
    assert "`lightr study table6 --seeds 2`" in text
    assert "`lightr study all --seeds 2 --write" in text
    assert "| full LightReasoner | 54.0 |" in text
    assert text.count("In the paper:") == 2
    assert "**Missing because some of their jobs failed: table8.**" in text
    assert "](results/figure7.png)" in text
    assert (file.parent / "results" / "figure7.png").read_bytes() == (written / "figure7.png").read_bytes()

    mark = "<!-- reading: table6 -->\n"
    file.write_text(text.replace(mark, mark + "It holds.\n\nNearly."))
    again = write_page()
    assert mark + "It holds.\n\nNearly.\n<!-- end -->" in again
    assert again.count("It holds.") == 1
