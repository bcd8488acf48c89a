"""Rows and blocks of a run, read without the code under test."""

import base64
import json
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightreasoner.runs.stage import read_stage
from lightreasoner.samples.folder import Rollout

from ..kept import KeptStep, kept_steps

Rows = tuple[list[Rollout], dict[tuple[str, int], KeptStep]]


def rows_of(run: Path) -> Rows:
    _, stage = read_stage(run / "sample")
    rollouts = [row for table in stage.tables("rollouts") for row in Rollout.rows(table)]
    steps = kept_steps(run)
    return rollouts, {(step.question_id, step.position): step for step in steps}


def copy_of(run: Path, folder: Path, *names: str) -> Path:
    for name in names:
        (shutil.copytree if (run / name).is_dir() else shutil.copy)(run / name, folder / name)
    return folder


def read_blocks(page: bytes) -> Iterator[tuple[str, Any]]:
    """Names and contents of the blocks of data in a page."""
    for piece in page.split(b'<script type="application/json" id="data-')[1:]:
        name, _, rest = piece.partition(b'">"')
        yield name.decode(), json.loads(zlib.decompress(base64.b64decode(rest.partition(b'"')[0])))
