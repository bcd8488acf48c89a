"""The report as Markdown and JSON."""

import json
from pathlib import Path

from lightreasoner.report import markdown, report


def test_markdown_and_json_have_the_same_content(small_run: Path) -> None:
    found = report(small_run)
    values = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert values["labels"]["kept"] == found.labels.kept
    assert values["accuracies"][0]["after"]["value"] == found.accuracies[0].after.value
    text = markdown(found)
    row = found.accuracies[0]
    assert f"{100 * row.before.value:.1f} ({100 * row.before.low:.1f} to {100 * row.before.high:.1f})" in text
    assert f"| {found.labels.kept:,}" in text
    assert f"{found.cost.scored_tokens:,} scored" in text
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    for at, (steps, kept) in enumerate(zip(found.labels.steps_at, found.labels.kept_at, strict=True)):
        assert [str(at), f"{steps:,}", f"{100 * kept:.1f} %"] in cells
    for n, labels in enumerate(found.labels.supports[:-1], 1):
        assert [str(n), f"{labels:,}"] in cells
    assert found.commands[0] in text
    assert all(name in text for name in found.settings)
