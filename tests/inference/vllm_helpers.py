"""An environment with the stand-in for vLLM, for the tests of the engine and of the stages that use it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lightreasoner.inference import vllm_engine

from . import fake_vllm


class FakeVllm:
    """Makes this environment one with vLLM; gives faults to it, and reads what it was given."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        (folder / "vllm").mkdir(parents=True)
        shutil.copy(fake_vllm.__file__, folder / "vllm" / "__init__.py")
        monkeypatch.setenv("PYTHONPATH", str(folder))
        monkeypatch.setenv("FAKE_VLLM_SEEN", str(folder))
        self.set_version("9.1")
        self.set_faults()

    def set_version(self, version: str) -> None:
        for old in self.folder.glob("*.dist-info"):
            shutil.rmtree(old)
        info = self.folder / f"vllm-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
        vllm_engine.engine_version.cache_clear()

    def set_faults(self, **faults: Any) -> None:
        self._monkeypatch.setenv("FAKE_VLLM", json.dumps(faults))

    def seen(self, name: str) -> list[Any]:
        file = self.folder / name
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
