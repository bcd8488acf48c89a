"""What the folder of a stage tells about itself: its manifest, and whether it holds work."""

import json
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from lightreasoner.errors import RunCorrupted, RunError, RunMismatch
from lightreasoner.runs.records import SCHEMA_VERSION

# Stages with prompts in a run folder, those of its rounds too.
ASKED = (
    *("sample", "sample-states", "*/*/answers", "evaluate/*/*/*/answers"),
    *("round-*/sample", "round-*/sample-states", "round-*/held-back/sample", "round-*/held-back/base/sample"),
)


def with_schema(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """A fingerprint as the manifest stores it: JSON values, with the version of the format."""
    return dict(json.loads(json.dumps({"schema_version": SCHEMA_VERSION, **fingerprint})))


def prompts_time(run: Path, stage: str, now: datetime | None = None) -> str:
    """The time that a chat template with a clock sees, ISO 8601: one for a run folder, so that dates stay as they were.

    A stage that has begun keeps its own time. A new one takes the earliest of its run folder, so that a model before
    and after training is asked with the same date; without any, it is now. An evaluation in `RUN/evaluate/` belongs to
    the run folder `RUN`, and so do the folders of rounds in `RUN/round-0/`, `RUN/round-1/` and so on.

    Args:
        run: run folder.
        stage: name of its subfolder.
        now: the time that counts as now.
    """
    if (own := _asked_at(run / stage)) is not None:
        return own
    root = run.parent.parent if run.parent.name == "evaluate" else run
    whole = next((part.parent for part in (root, *root.parents) if _is_round(part)), root)
    for place in (root, whole):
        times = [time for part in ASKED for folder in place.glob(part) if (time := _asked_at(folder)) is not None]
        if times:
            return min(times, key=datetime.fromisoformat)
    return (now or datetime.now()).astimezone().isoformat(timespec="seconds")


def _is_round(folder: Path) -> bool:
    return bool(re.fullmatch(r"round-\d+", folder.name)) and (folder.parent / "round-0").is_dir()


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
    return has_commit or any(next(folder.glob(name), None) for name in ("checkpoint-*", "adapter", "deliveries/*.json"))


SHARDS = "*-[0-9][0-9][0-9][0-9][0-9].parquet"
_OF_A_STAGE = re.compile(r"\..*|manifest\.json|ledger\.jsonl|log\.json|[a-z-]+-\d{5}\.parquet(?:\.\w+)?")


def refuse_foreign(folder: Path) -> None:
    """Refuse a folder with files that no stage wrote, which a stage would delete or replace.

    Raises:
        RunError: it holds such files, and no manifest.
    """
    if (folder / "manifest.json").exists():
        return
    foreign = sorted(path.name for path in folder.iterdir() if path.is_file() and not _OF_A_STAGE.fullmatch(path.name))
    if foreign:
        raise RunError(
            f"{folder} holds {', '.join(foreign[:3])}{' …' if len(foreign) > 3 else ''}, which no stage wrote, and a "
            "stage would write there. Move them, or give another folder with --out"
        )


def clear(folder: Path) -> None:
    """Remove what a stage left that claims nothing; the ledger first, so that no commit lacks its shard."""
    for pattern in ("ledger.jsonl", "log.json", SHARDS):
        for path in folder.glob(pattern):
            path.unlink()
    for pattern in ("checkpoint-*", "leases", "deliveries"):
        for path in folder.glob(pattern):
            shutil.rmtree(path)


def manifest_of(folder: Path) -> dict[str, Any] | None:
    """The manifest; None where there is none to read and the folder claims nothing."""
    try:
        return read_manifest(folder)
    except (RunCorrupted, RunMismatch):
        if claims(folder):
            raise
        return None


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a stage.

    Raises:
        RunCorrupted: there is none that can be read.
        RunMismatch: a version with another schema wrote it.
    """
    path = folder / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        schema = manifest["fingerprint"].get("schema_version")
        version = manifest.get("environment", {}).get("lightreasoner", "an unknown version")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise RunCorrupted(
            f"{path} is missing or unreadable; it says what the folder holds. Give another folder"
        ) from None
    if schema != SCHEMA_VERSION:
        raise RunMismatch(
            f"{folder} was written by lightreasoner {version} with schema_version {schema}, and this version reads "
            f"{SCHEMA_VERSION}: its files have another form. Use that version, or give another folder with --out"
        )
    return manifest
