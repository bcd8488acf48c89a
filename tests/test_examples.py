"""The examples run as they are."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_whole_method_flat() -> None:
    script = ROOT / "examples" / "whole_method_flat.py"
    found = subprocess.run(
        [sys.executable, str(script), "20", "3"], capture_output=True, text=True, timeout=300, check=False
    )
    assert found.returncode == 0, found.stderr
    assert int(re.search(r"(\d+) labels from 20 questions", found.stdout).group(1)) > 20
    assert "accuracy on 100 new problems" in found.stdout
