"""Sum up the counts of these tests as a Markdown table: `python -m tests.faults.tally FILE`.

FILE is the file that LIGHTREASONER_FAULT_TALLY named during the tests.
"""

import json
import sys
from collections import Counter
from pathlib import Path

COLUMNS = ("faults", "survived", "rows", "rows_lost", "rows_doubled", "bad_inputs", "crashes", "hangs")


def table(lines: list[str]) -> str:
    """One row per module, and the total."""
    by_module: dict[str, Counter[str]] = {}
    for line in lines:
        entry = json.loads(line)
        by_module.setdefault(entry.pop("module"), Counter()).update(entry)
    total = sum(by_module.values(), Counter())
    titles = ("", *(name.replace("_", " ") for name in COLUMNS))
    rows = [(name.removeprefix("test_"), counts) for name, counts in sorted(by_module.items())]
    cells = [[name, *(str(counts[column]) for column in COLUMNS)] for name, counts in [*rows, ("all", total)]]
    return "\n".join(f"| {' | '.join(row)} |" for row in [titles, ["---"] * len(titles), *cells])


if __name__ == "__main__":
    print(table(Path(sys.argv[1]).read_text().splitlines()))
