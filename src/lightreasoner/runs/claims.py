"""Which stage folders hold work that other settings must not touch, and when their prompts were rendered."""

import json
import shutil
from contextlib import suppress
from datetime import datetime
from pathlib import Path


def prompts_time(run: Path, stage: str) -> str:
    """The time that a chat template with a clock sees, ISO 8601: one for a run folder, so that dates stay as they were.

    A stage that has begun keeps its own time. A new one takes the earliest of its run folder, so that a model before
    and after training is asked with the same date; without any, it is now. An evaluation in `RUN/evaluate/` belongs to
    the run folder `RUN`.
    """
    if (own := _asked_at(run / stage)) is not None:
        return own
    root = run.parent.parent if run.parent.name == "evaluate" else run
    places = ("sample", "*/*/answers", "evaluate/*/*/*/answers")
    times = [time for place in places for folder in root.glob(place) if (time := _asked_at(folder)) is not None]
    return min(times, key=datetime.fromisoformat, default=datetime.now().astimezone().isoformat(timespec="seconds"))


def _asked_at(folder: Path) -> str | None:
    """When the prompts of a begun stage were rendered."""
    try:
        time = json.loads((folder / "manifest.json").read_text())["asked_at"]
        datetime.fromisoformat(time)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(time) if claims(folder) else None


def claims(folder: Path) -> bool:
    """Whether the stage has done work that other settings must not touch."""
    if (folder / "result.json").exists():
        return True
    with suppress(OSError, ValueError, AttributeError):  # what a damaged manifest belongs to counts
        if json.loads((folder / "manifest.json").read_text()).get("released"):
            return False
    ledger = folder / "ledger.jsonl"
    has_commit = ledger.exists() and b"\n" in ledger.read_bytes()
    return has_commit or any(next(folder.glob(name), None) for name in ("checkpoint-*", "adapter"))


def clear(folder: Path) -> None:
    """Remove what a stage left that claims nothing; the ledger first, so that no commit lacks its shard."""
    for pattern in ("ledger.jsonl", "log.json", "*.parquet"):
        for path in folder.glob(pattern):
            path.unlink()
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
