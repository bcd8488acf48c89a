"""The distributions, built and installed as a user does, and the container file."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email import message_from_string
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src" / "lightreasoner"


def ended(*command: str | Path, cwd: Path, **environment: str) -> str:
    env = {**os.environ, **environment}
    env.pop("PYTHONPATH", None)
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Source distribution and wheel of this checkout."""
    pytest.importorskip("hatchling", reason="hatchling is not installed; the extra dev has it")
    out = tmp_path_factory.mktemp("dist")
    ended(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", out, cwd=ROOT)
    (source,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return source, wheel


def in_wheel(wheel: Path, name: str) -> str:
    """A file of the folder `dist-info`."""
    with zipfile.ZipFile(wheel) as archive:
        (found,) = (path for path in archive.namelist() if path.endswith(f".dist-info/{name}"))
        return archive.read(found).decode()


def required(requirements: list[str]) -> Iterator[metadata.Distribution]:
    """The installed distributions that these requirements lead to, each once."""
    todo, seen = [Requirement(text) for text in requirements], set()
    while todo:
        one = todo.pop()
        extras = {"", *one.extras}
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        found = metadata.distribution(one.name)
        if (found.name, *sorted(extras)) in seen:
            continue
        seen.add((found.name, *sorted(extras)))
        yield found
        for text in found.requires or ():
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                needed.marker = None
                todo.append(needed)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory, built: tuple[Path, Path]) -> Path:
    """An environment with what the wheel requires, and nothing else of the environment of the tests.

    The required packages are links, so that nothing is downloaded; the wheel itself is not installed yet.
    """
    folder = tmp_path_factory.mktemp("clean")
    ended(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    links = folder / "required"
    links.mkdir()
    header = message_from_string(in_wheel(built[1], "METADATA"))
    for found in required(header.get_all("Requires-Dist", [])):
        for name in {file.parts[0] for file in found.files or () if file.parts[0] not in {"..", "__pycache__"}}:
            link = links / name
            if not link.exists():
                link.symlink_to(Path(str(found.locate_file(name))))
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    (packages / "required.pth").write_text(f"{links}\n")
    return folder / "venv"


def files_in(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as archive:
        packed = {name.partition("/")[2] for name in archive.namelist() if name.startswith("lightreasoner/")}
    assert packed == files_in(SOURCES)
    assert {"data/benchmarks.yaml", "recipes/miniature.yaml", "evaluation/lm_eval_tasks/_task", "py.typed"} < packed
    assert "Apache License" in in_wheel(built[1], "licenses/LICENSE")


@pytest.mark.slow
def test_the_source_distribution_holds_the_repository_and_builds_the_same_wheel(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    with tarfile.open(built[0]) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    if (ROOT / ".git").exists():
        tracked = set(ended("git", "ls-files", cwd=ROOT).splitlines())
        assert {name for name in tracked if (ROOT / name).is_file()} <= files_in(unpacked)
    ended(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "again", cwd=unpacked)
    (again,) = (tmp_path / "again").glob("*.whl")
    assert in_wheel(again, "RECORD") == in_wheel(built[1], "RECORD")  # the hash of every file


@pytest.mark.slow
def test_the_wheel_runs_the_whole_job_in_a_clean_environment(
    built: tuple[Path, Path], clean: Path, tmp_path: Path
) -> None:
    """Installed without the repository and without a network, in an empty folder; nothing stays after it."""
    before = files_in(clean)
    pip = [sys.executable, "-m", "pip", "--python", clean / "bin" / "python", "--disable-pip-version-check"]
    ended(*pip, "install", "--no-index", "--no-compile", built[1], cwd=tmp_path)
    work, home = tmp_path / "work", tmp_path / "home"
    work.mkdir()
    home.mkdir()
    alone = {"HOME": str(home), "PATH": f"{clean / 'bin'}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    place = ended("python", "-c", "import lightreasoner; print(lightreasoner.__file__)", cwd=work, **alone)
    assert Path(place.strip()).is_relative_to(clean)
    small = ["--sample.max-questions", "12", "--finetune.steps", "2", "--finetune.save-steps", "2"]
    small += ["--evaluate.max-items", "4", "--evaluate.max-answer-tokens", "24", "--out", "mine"]
    ended("lightr", "run", "--config", "miniature", *small, cwd=work, **alone)
    assert {"report.html", "merged", "sample", "finetune", "evaluate"} <= {
        path.name for path in (work / "mine").iterdir()
    }
    assert (work / "mine" / "merged" / "model.safetensors").is_file()
    ended("lightr", "report", "mine", "--markdown", cwd=work, **alone)
    assert "miniature" in ended("lightreasoner", "recipes", "ls", cwd=work, **alone)
    assert [path.name for path in work.iterdir()] == ["mine"]
    ended(*pip, "uninstall", "--yes", "lightreasoner", cwd=tmp_path)
    assert files_in(clean) == before


# --- The container file ---


def instructions() -> list[tuple[str, str]]:
    """The container file's instructions in order, with continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Containerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


def test_the_container_file_copies_what_there_is_and_runs_without_root() -> None:
    found = instructions()
    assert {word for word, _ in found} <= {
        "ARG",
        "FROM",
        "LABEL",
        "WORKDIR",
        "COPY",
        "RUN",
        "ENV",
        "USER",
        "ENTRYPOINT",
        "CMD",
    }
    (base,) = (rest for word, rest in found if word == "ARG" and rest.startswith("BASE="))
    assert re.fullmatch(r"BASE=docker\.io/library/python:3\.\d+\.\d+-slim-\w+", base), "the base must be one version"
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    copied = [name for word, rest in found if word == "COPY" for name in rest.split()[:-1]]
    copied += re.findall(r"type=bind,source=([\w.]+)", " ".join(rest for _, rest in found))
    assert {"pyproject.toml", "src", "README.md", "LICENSE", "constraints.txt"} == {*copied}
    assert all((ROOT / name).exists() and f"!{name}" in ignored for name in copied)
    last = max(place for place, (word, _) in enumerate(found) if word == "FROM")
    users = [rest for word, rest in found[last:] if word == "USER"]
    assert users, "without USER, the container runs as root"
    assert users[-1].partition(":")[0] not in {"root", "0"}
    assert ("ENTRYPOINT", '["lightr"]') in found
