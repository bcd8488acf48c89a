"""The run folders of `job.py`, made once for all tests, in a process of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from torch.utils import cpp_extension

JOB = Path(__file__).with_name("job.py")


@pytest.fixture(scope="session")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `job.py` filled; the first process that asks makes it, for all processes of the tests."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # ninja may be in this environment only
    compiler = cpp_extension.get_cxx_compiler()
    if missing := [tool for tool in (compiler, "ninja") if shutil.which(tool, path=path) is None]:
        pytest.skip(f"no {' and no '.join(missing)} to compile the pretend device with")
    root = tmp_path_factory.getbasetemp()
    out = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "accelerator"
    with FileLock(f"{out}.lock"):
        if not (out / "facts.json").exists():
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            cache = request.config.cache
            built = cache.mkdir("pretend-device") if cache else out
            environment = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
            command = [sys.executable, str(JOB), str(built), str(out)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-8000:]
    return out
