"""Messages, and progress on plain stderr, in a terminal and in a notebook."""

import errno
import logging
import os
import pty
import re
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from cyclopts import App
from rich.console import Console

import lightreasoner
from lightreasoner.cli import app
from lightreasoner.config import PairConfig
from lightreasoner.inference.contrastive_engine import ContrastiveEngine
from lightreasoner.inference.generation import Decoding, Engine
from lightreasoner.inference.packed_engine import PackedEngine
from lightreasoner.inference.padded_engine import PaddedEngine
from lightreasoner.models.loading import load_tokenizer
from lightreasoner.models.pairs import load_pair
from lightreasoner.models.source import find_model
from lightreasoner.runs import progress as module
from lightreasoner.runs.eta import Batch
from lightreasoner.runs.progress import busy, count_step, count_tokens, progress, say, tokens_counted, warn

from ..faults.harness import completed as lightr

SAMPLE = "sample --expert miniature/expert --amateur miniature/base --dataset arithmetic --max-questions 12".split()


def python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PLAIN_LINE_EVERY", "SILENT_FOR", "NOTEBOOK_EVERY"):
        monkeypatch.setattr(module, name, 0.05)


def wait_for(condition: object, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)


# --- Messages ---


def test_messages_are_log_records(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lightreasoner"):
        say("3 questions skipped")
        warn("the adapter 100% changes nothing")
    assert caplog.record_tuples == [
        ("lightreasoner", logging.INFO, "3 questions skipped"),
        ("lightreasoner", logging.WARNING, "the adapter 100% changes nothing"),
    ]


def test_the_command_line_prints_them_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    say("named \x1b[2J")
    warn("beware")
    assert capsys.readouterr().err == "named \\u001b[2J\nwarning: beware\n"


def test_a_library_prints_warnings_only() -> None:
    work = "from lightreasoner.runs.progress import *; say('a'); warn('b')\nwith progress('p', 1) as f: f(1)"
    assert python(work).stderr == "b\n"
    chosen = python(f"import logging; logging.basicConfig(level=logging.INFO)\n{work}")
    assert chosen.stderr.splitlines()[:3] == [
        "INFO:lightreasoner:a",
        "WARNING:lightreasoner:b",
        "INFO:lightreasoner:p: 0/1",
    ]


def test_no_warning_is_logged_as_information() -> None:
    sources = Path(lightreasoner.__file__).parent.rglob("*.py")
    wrong = [path for path in sources if re.search(r'say(_once)?\(\s*f?"warning:', path.read_text())]
    assert wrong == []


def test_every_command_can_be_quiet() -> None:
    def commands(of: App) -> Iterator[App]:
        for name in (name for name in of if not name.startswith("-")):
            yield from commands(of[name]) if of[name].default_command is None else [of[name]]

    found = list(commands(app))
    assert len(found) > 15
    for command in found:
        assert any("--quiet" in argument.names for argument in command.assemble_argument_collection()), command.name


@pytest.mark.slow
def test_quiet_prints_the_result_and_nothing_else(tmp_path: Path) -> None:
    done = lightr(*SAMPLE, "--out", "r", "--quiet", "--json", cwd=tmp_path, cold=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert '"questions": 12' in done.stdout
    refused = lightr("recipes", "show", "absent", "--quiet", cwd=tmp_path)
    assert refused.returncode != 0
    assert refused.stderr.startswith("lightr: ")


# --- Plain lines ---


def test_the_first_line_comes_before_the_first_batch(tmp_path: Path) -> None:
    done = lightr(*SAMPLE, "--out", "r", "--batch-size", "4", cwd=tmp_path)
    lines = [line for line in done.stderr.splitlines() if line.startswith("sampling")]
    assert lines[0] == "sampling: 0/12"
    assert re.fullmatch(r"sampling: 12/12, 0:00:\d\d, [\d,]+ tokens/s, \d+ steps kept", lines[-1])


@pytest.mark.usefixtures("fast")
def test_lines_come_within_a_batch_with_tokens_and_the_time_left(caplog: pytest.LogCaptureFixture) -> None:
    with progress("sampling", 10, 2, plan=[Batch(8, 80, 10, 100)]) as advance:
        count_tokens(80)
        for _ in range(5):
            count_step(8)
            time.sleep(0.03)
        wait_for(lambda: "left" in caplog.messages[-1])
        assert re.fullmatch(r"sampling: 2/10, 0:00:0\d, roughly 0:00:\d\d left, [\d,]+ tokens/s", caplog.messages[-1])
        count_step(0)
        estimate = module._shown[-1]._estimate
        assert estimate.speed(estimate._began + 10) == pytest.approx(12)  # of 80 tokens read and 5 · 8 generated
        advance(8, "3 steps kept")
    assert caplog.messages[0] == "sampling: 2/10"
    assert re.fullmatch(r"sampling: 10/10, 0:00:0\d, [\d,]+ tokens/s, 3 steps kept", caplog.messages[-1])


@pytest.mark.usefixtures("fast")
def test_work_of_unknown_length_says_so_once_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    with busy("merging"), busy("loading a model"):
        wait_for(lambda: len(caplog.messages) >= 2)
    assert all(message.startswith("loading a model: 0:00:0") for message in caplog.messages)
    with busy("merging"):
        pass
    assert not any(message.startswith("merging") for message in caplog.messages)


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_no_thread_is_left_behind(error: type[BaseException]) -> None:
    before = threading.active_count()

    def fail() -> None:
        with progress("sampling", 4), busy("loading"):
            assert threading.active_count() == before + 2
            raise error

    with pytest.raises(error):
        fail()
    assert threading.active_count() == before
    count_step(3)  # shown nowhere
    assert module._shown == module._busy == []


@pytest.mark.usefixtures("fast")
def test_a_closed_stderr_does_not_end_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = threading.Event()

    def fail(line: str) -> None:
        failed.set()
        raise BrokenPipeError(errno.EPIPE, "closed")

    with progress("sampling", 4) as advance:
        monkeypatch.setattr(module, "say", fail)
        assert failed.wait(20)
        advance(1)


def test_batches_of_other_processes_move_the_time_left() -> None:
    """Batches of other processes: no steps, tokens in jumps, and several batches in work at a time."""
    with progress("sampling", 40, plan=[Batch(10, 100, 10, 90)] * 4) as advance:
        count_tokens(1500)
        advance(10, tokens=1000)
        estimate = module._shown[-1]._estimate
        left = estimate.left(estimate._began + 30.0)
        assert left == pytest.approx(30 * (4000 - 1500) / 1500)


# --- Terminal and notebook ---


def test_a_terminal_shows_a_bar(tmp_path: Path) -> None:
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "lightreasoner.cli", *SAMPLE, "--out", "r", "--batch-size", "4"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    work = subprocess.Popen(command, stderr=child, stdout=subprocess.PIPE, cwd=tmp_path, env=environment)
    os.close(child)
    shown = b""
    while True:
        try:
            shown += os.read(parent, 4096)
        except OSError:  # the other side is closed
            break
    os.close(parent)
    work.communicate()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert work.returncode == 0
    assert re.search(r"sampling ━+ 12/12 0:00:\d\d [\d,]+ tokens/s, \d+ steps kept", text)
    assert "sampling: " not in text


def notebook(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What a notebook is told to show, in order."""
    shown: list[dict[str, str]] = []

    class Handle:
        def update(self, content: dict[str, str], raw: bool) -> None:
            shown.append(content)

    def display(content: dict[str, str], raw: bool, display_id: bool) -> Handle:
        shown.append(content)
        return Handle()

    fake = types.ModuleType("IPython.display")
    fake.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", fake)
    monkeypatch.setattr(module, "Console", lambda **_: Console(force_jupyter=True))
    return shown


@pytest.mark.usefixtures("fast")
def test_a_notebook_shows_a_bar_that_moves_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = notebook(monkeypatch)
    with progress("<b>sampling", 4) as advance:
        advance(1, "a & b")
        wait_for(lambda: len(shown) >= 4)
        advance(3)
    assert shown[0]["text/html"].startswith('<progress value="0" max="4"></progress> &lt;b&gt;sampling: 0/4')
    assert shown[1]["text/html"].endswith("a &amp; b")
    assert shown[-1]["text/plain"].startswith("<b>sampling: 4/4")


@pytest.mark.usefixtures("fast")
def test_a_level_above_information_hides_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = notebook(monkeypatch)
    monkeypatch.setattr(module.logger, "level", logging.WARNING)
    with progress("sampling", 4) as advance:
        advance(4)
    assert shown == []


# --- Tokens ---


def counted(engine: Engine, prompts: Sequence[list[int]], decoding: Decoding) -> tuple[int, int, list[int]]:
    """Tokens that were generated, tokens that the engine counted, and the rows of its steps."""
    steps: list[int] = []
    before = tokens_counted()
    with pytest.MonkeyPatch.context() as patch:
        meter = types.SimpleNamespace(tokens=lambda count: None, step=steps.append)
        patch.setattr(module, "_shown", [meter])
        responses = engine.generate(prompts, decoding).responses
    read = sum(map(len, prompts))
    return sum(map(len, responses)), tokens_counted() - before - read, steps


@pytest.mark.parametrize("name", ["packed", "padded", "contrastive"])
def test_engines_count_every_token_at_its_step(name: str) -> None:
    pair = load_pair(PairConfig(expert="miniature/expert", amateur="miniature/base", device="cpu"))
    tokenizer = load_tokenizer(find_model("miniature/expert"))
    engines: dict[str, Engine] = {
        "packed": PackedEngine(pair.expert),
        "padded": PaddedEngine(pair.expert),
        "contrastive": ContrastiveEngine(pair, 0.2, tokenizer),
    }
    torch.manual_seed(0)
    prompts = [torch.randint(3, 200, (length,)).tolist() for length in (5, 9, 14, 6)]
    frequent = PackedEngine(pair.expert).generate(prompts, Decoding(24, ())).responses[0][3]
    for stop_ids in ((), (2, frequent)):
        generated, found, steps = counted(engines[name], prompts, Decoding(24, stop_ids))
        assert found == generated == sum(steps)
        assert steps[0] == 4
        assert steps[-1] == 0
        assert steps == sorted(steps, reverse=True)
