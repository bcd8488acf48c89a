"""The grading pool: judgements in order and within limits, for hostile texts and killed workers too."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from lightreasoner.config.sections import JudgeName
from lightreasoner.errors import ConfigError, LightReasonerError
from lightreasoner.grading import mathematical
from lightreasoner.grading import qwen_toolkit as toolkit
from lightreasoner.grading.pool import GradingPool
from lightreasoner.grading.verdicts import VERDICTS, AnswerKind, Case, Judgement
from tests.grading.test_mathematical import TABLE

MARGIN = 15  # seconds that a busy machine may add to anything
# Beside such gold answers math-verify carries the powers out.
HANGING = Case(r"\boxed{9^{9^{9^{9}}}}", "9^{9^{9^{8}}}", "expression")
GREEDY = Case(r"\boxed{2^{17179869184}}", "2^{17179869183}", "expression")  # a number of 2 GB
EASY = Case(r"\boxed{1+x}", "x+1", "expression")
WRONG = Case(r"\boxed{x}", "x+1", "expression")
SCRIPT = r"""
from lightreasoner.grading.pool import GradingPool
from lightreasoner.grading.verdicts import Case

pool = GradingPool(workers=1, seconds=3)
print(next(pool.judge([Case("1", "1", "expression")])).verdict, flush=True)
if {hanging}:
    hanging = Case(r"\boxed{{9^{{9^{{9^{{9}}}}}}}}", "9^{{9^{{9^{{8}}}}}}", "expression")
    print(next(pool.judge([hanging])).verdict, flush=True)
if {waiting}:
    import time
    time.sleep(600)
pool.__exit__(None, None, None)
"""


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    found = []
    for child in process.children(recursive=True):
        try:
            if "lightreasoner.grading.worker" in child.cmdline():
                found.append(child)
        except psutil.Error:
            continue
    return found


def my_workers() -> list[psutil.Process]:
    return workers_of(psutil.Process())


def eventually(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


# --- Judgements ---


def test_judgements_come_in_order_and_equal_those_of_this_process() -> None:
    cases = [Case(text, gold, kind) for _, text, gold, kind, _ in TABLE]
    random.Random(0).shuffle(cases)
    expected = [mathematical.judge(case.text, case.gold, case.kind) for case in cases]
    assert len(cases) >= 300
    assert len({judgement.extracted for judgement in expected}) >= 150  # or the order would not show
    with GradingPool(workers=2) as pool:
        assert list(pool.judge(iter(cases))) == expected


def test_judgements_of_the_toolkit_judge_equal_those_of_this_process() -> None:
    cases = [Case(text, gold, kind, "math") for _, text, gold, kind, _ in TABLE if len(text) < 1000][::4]
    expected = [toolkit.judge(case.text, case.gold, case.benchmark) for case in cases]
    with GradingPool("toolkit", workers=2) as pool:
        assert list(pool.judge(cases)) == expected


def test_the_toolkit_judge_gets_the_benchmark() -> None:
    cases = [Case("it is a monopoly", "A", "choice", name) for name in ("mmlu_stem", "gsm8k")]
    with GradingPool("toolkit", workers=1) as pool:
        assert [found.verdict for found in pool.judge(cases)] == [
            toolkit.judge(case.text, case.gold, case.benchmark).verdict for case in cases
        ]


def test_no_cases_start_no_worker() -> None:
    with GradingPool(workers=2) as pool:
        assert list(pool.judge([])) == []
        assert my_workers() == []


def test_a_pool_keeps_its_workers_between_calls() -> None:
    with GradingPool(workers=1) as pool:
        assert list(pool.judge([EASY])) == list(pool.judge([EASY]))
        first = my_workers()
        assert [found.verdict for found in pool.judge([EASY, WRONG] * 10)] == ["correct", "wrong"] * 10
        assert my_workers() == first


def test_cases_are_read_only_as_they_are_needed() -> None:
    read = 0

    def endless() -> Iterator[Case]:
        nonlocal read
        while True:
            read += 1
            yield Case("1", "1", "number")

    with GradingPool(workers=2, symbolic=False) as pool:
        found = pool.judge(endless())
        for _ in range(50):
            next(found)
        assert read <= 60


def test_the_end_of_a_very_long_text_is_judged() -> None:
    long = "so " * 700_000
    cases = [Case(f"{long}\\boxed{{5}}", "5", "number"), Case(f"\\boxed{{5}}{long}", "5", "number")]
    with GradingPool(workers=1, symbolic=False) as pool:
        assert [found.verdict for found in pool.judge(cases)] == ["correct", "no_answer"]


@pytest.mark.parametrize("text", ["\ud800\\boxed{\udfff5}", "5\x00", "\u2028\u202e5\n\r\x85", '"\\"', "{}[]", "٣"])
def test_any_character_reaches_the_judge_and_comes_back(text: str) -> None:
    case = Case(text, "5", "number")
    with GradingPool(workers=1, symbolic=False) as pool:
        assert next(pool.judge([case])) == mathematical.judge(text, "5", "number")


# --- Limits ---


def test_a_case_that_hangs_is_a_timeout_and_the_others_are_judged() -> None:
    cases = [EASY, HANGING, EASY, WRONG, HANGING, WRONG]
    with GradingPool(workers=2, seconds=2) as pool:
        list(pool.judge([EASY] * 8))  # both workers have started
        started = time.monotonic()
        found = [judgement.verdict for judgement in pool.judge(cases)]
        elapsed = time.monotonic() - started
    assert found == ["correct", "timeout", "correct", "wrong", "timeout", "wrong"]
    assert 2 <= elapsed < 2 * 2 + MARGIN  # it hung, and not longer than its limit


def test_the_start_of_a_worker_does_not_count_as_time_of_the_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import time; time.sleep(3)")  # runs before anything else does
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    with GradingPool(workers=1, seconds=2) as pool:
        started = time.monotonic()
        assert next(pool.judge([EASY])).verdict == "correct"
        assert time.monotonic() - started >= 3


def test_a_case_that_fills_the_memory_is_a_grader_error_and_this_process_stays_small() -> None:
    me = psutil.Process()
    with GradingPool(workers=1, seconds=120, megabytes=300) as pool:
        list(pool.judge([EASY]))
        before = me.memory_info().rss
        found = [judgement.verdict for judgement in pool.judge([EASY, GREEDY, WRONG])]
        after = me.memory_info().rss
    assert found == ["correct", "grader_error", "wrong"]
    assert after - before < 20 * 2**20


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_is_killed_costs_at_most_its_case(number: signal.Signals) -> None:
    cases = [EASY, WRONG] * 60
    with GradingPool(workers=2) as pool:
        found = []
        for place, judgement in enumerate(pool.judge(cases)):
            if place == 20:
                my_workers()[0].send_signal(number)
            found.append(judgement.verdict)
    lost = [place for place, verdict in enumerate(found) if verdict == "grader_error"]
    assert len(lost) <= 1
    assert [verdict for place, verdict in enumerate(found) if place not in lost] == [
        verdict for place, verdict in enumerate(["correct", "wrong"] * 60) if place not in lost
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_process_group_changes_no_verdict(number: signal.Signals) -> None:
    # Ctrl-C reaches the workers too, and the caller may want to finish and commit its batch.
    with GradingPool(workers=2) as pool:
        list(pool.judge([EASY] * 8))
        workers = my_workers()
        found = []
        for place, judgement in enumerate(pool.judge([EASY, WRONG] * 30)):
            if place % 10 == 0:
                for worker in workers:
                    worker.send_signal(number)
            found.append(judgement.verdict)
        assert found == ["correct", "wrong"] * 30
        assert my_workers() == workers


def test_a_worker_that_cannot_start_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "lightreasoner"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('a broken installation')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with GradingPool(workers=1) as pool, pytest.raises(LightReasonerError, match=r"exit code 1; .* -m lightreasoner"):
        next(pool.judge([EASY]))
    assert my_workers() == []


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [
        ({"seconds": 0}, "0 seconds,"),
        ({"seconds": float("nan")}, "nan seconds,"),
        ({"megabytes": 100}, "100 megabytes,"),
        ({"workers": 0}, "0 workers:"),
        ({"workers": -1}, "-1 workers:"),
    ],
)
def test_limits_too_small_for_any_answer_raise(limits: dict[str, Any], complaint: str) -> None:
    # Otherwise all answers would be timeouts or grader errors.
    with pytest.raises(ConfigError, match=complaint):
        GradingPool(**limits)
    assert not any(thread.name.startswith("grading") for thread in threading.enumerate())


def test_files_in_the_current_folder_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "signal", "sympy", "math_verify"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not me')")
    monkeypatch.chdir(tmp_path)
    with GradingPool(workers=1) as pool:
        assert next(pool.judge([EASY])).verdict == "correct"


# --- Callers and closing ---


def test_a_pool_works_in_a_thread() -> None:
    found: list[Judgement] = []

    def work() -> None:
        with GradingPool(workers=1, seconds=2) as pool:
            found.extend(pool.judge([EASY, HANGING, WRONG]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert [judgement.verdict for judgement in found] == ["correct", "timeout", "wrong"]


def test_two_threads_may_share_a_pool() -> None:
    found: dict[int, list[str]] = {}
    with GradingPool(workers=2) as pool:

        def work(number: int, cases: list[Case]) -> None:
            found[number] = [judgement.verdict for judgement in pool.judge(cases)]

        threads = [
            threading.Thread(target=work, args=(number, [case] * 40)) for number, case in enumerate([EASY, WRONG])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert found == {0: ["correct"] * 40, 1: ["wrong"] * 40}


def test_closing_leaves_no_process_behind() -> None:
    with GradingPool(workers=2) as pool:
        list(pool.judge([EASY] * 8))
        assert len(my_workers()) == 2
    assert my_workers() == []


def test_closing_leaves_no_process_behind_when_the_consumer_stops_early() -> None:
    with GradingPool(workers=2, seconds=60) as pool:
        list(pool.judge([EASY] * 8))
        found = pool.judge([EASY, HANGING, HANGING] + [EASY] * 100)
        assert next(found).verdict == "correct"
        started = time.monotonic()
    assert time.monotonic() - started < 30  # it does not wait for those that hang
    assert my_workers() == []


def test_closing_leaves_no_process_behind_when_the_consumer_fails() -> None:
    with pytest.raises(ZeroDivisionError), GradingPool(workers=2, seconds=60) as pool:
        assert next(pool.judge([EASY, HANGING] * 10)).verdict == 1 / 0
    assert my_workers() == []


def test_closing_leaves_no_process_behind_when_the_cases_fail() -> None:
    def cases() -> Iterator[Case]:
        yield from [EASY] * 10
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), GradingPool(workers=2) as pool:
        list(pool.judge(cases()))
    assert my_workers() == []


def test_closing_leaves_no_process_behind_while_workers_start() -> None:
    with GradingPool(workers=2) as pool:
        found = pool.judge([EASY] * 20)
        thread = threading.Thread(target=lambda: next(found, None), daemon=True)
        thread.start()
        assert eventually(lambda: my_workers() != [], 30)
    assert eventually(lambda: my_workers() == [], 5)


def test_a_script_needs_no_main_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(hanging=False, waiting=False))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "correct\n", "")


@pytest.mark.parametrize("hanging", [False, True], ids=["idle", "busy with a case that hangs"])
def test_a_worker_whose_parent_was_killed_ends_by_itself(tmp_path: Path, hanging: bool) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(hanging=hanging, waiting=True))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "correct\n"
        (worker,) = workers_of(psutil.Process(parent.pid))
        if hanging:
            assert eventually(lambda: worker.cpu_times().user > 0 and worker.status() == psutil.STATUS_RUNNING, 10)
        parent.kill()
        parent.wait()
        assert worker.is_running() or not hanging

    def is_gone() -> bool:
        return not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE  # its new parent may not reap it

    assert eventually(is_gone, 3 + MARGIN)


# --- Hostile texts ---

PROGRAMS = (
    "__import__('os').system('touch canary')",
    "().__class__.__base__.__subclasses__()",
    "exec(\"open('canary','w')\")",
    r"\write18{touch canary}",
    r"\immediate\write18{touch canary}",
    r"\input{/etc/passwd}",
    r"\include{/dev/zero}",
    r"\operatorname{eval}(open('canary','w'))",
    "$(touch canary)",
    "`touch canary`",
    "; touch canary",
    "'; open('canary', 'w'); '",
    "{0.__class__} {} %s %n %d {!r} ${x} #{x}",
    "lambda: open('canary','w')",
    "import os",
    '{"text": "x", "gold": "x"}\n["x","x","correct"]',
    "ready",
)
LETTERS = (
    "\ud800\udfff\u202e\u200f\x00\x1b\u2028\ufeff\U0001f600٣²½∞√πé\u0301中\t\r\n "
    "\\{}$%&#_^~'\"<>|()[]+-*/=!,.;:0123456789abxyzABC"
)
UNCLOSED = ("{", "}", "\\boxed{", "\\frac{", "\\sqrt{", "\\left(", "$", "(", "[", "\\begin{pmatrix}")
REPEATED = ("+1", "-1", "1,", "1/", "x^", "e9", "=1", r"\cdot 2", " 1", "%", "e", ".", "nan", "inf")
FRAMES = ("\\boxed{%s}", "%s", "The answer is %s.", "#### %s", "$%s$")
# Each can hang or fill the memory in one of the judges.
TOWERS = (
    "9^9^9^9",
    "9^{9^{9^{9}}}",
    "2^{17179869184}",
    "(10^{10})!",
    "99999999!",
    "9!!!!!!",
    r"\sum_{i=1}^{10^{12}} \frac{1}{i^3+1}",
    r"\prod_{n=1}^{10^9} n",
    r"\int_0^{\infty} \frac{\sin(x^3+\ln x)}{\sqrt{1+x^7}} dx",
    r"\lim_{x\to\infty} \frac{x!}{x^x \Gamma(x)}",
    "(x+y+z+w)^{200}",
    "(x+y+z+w)^{999}",
    r"\prod_{n=1}^{5000} (x+n)",
    r"\sum_{n=1}^{9999} \frac{1}{n^3}",
    "(" * 200 + "x" + ")" * 200,
)
GOLDS: tuple[tuple[str, AnswerKind, str], ...] = (
    ("42", "number", "gsm8k"),
    ("-3.5", "number", "svamp"),
    ("Mrs. Hilt", "expression", "asdiv"),
    ("C", "choice", "mmlu_stem"),
    ("C", "choice", "mmlu_stem"),
)
FORMULA_GOLDS: tuple[tuple[str, AnswerKind, str], ...] = (
    ("7", "expression", "asdiv"),
    ("4.5e33", "expression", "minerva_math"),
    (r"\frac{1}{2}", "expression", "math500"),
    ("x^2+1", "expression", "olympiadbench"),
    ("(1,2)", "expression", "math500"),
    ("[0,1)", "expression", "math500"),
)


def hostile_text(dice: random.Random) -> str:
    """A text that tries to break the judge; one in twenty is long."""
    many = dice.randint(2, 4) if dice.random() < 0.95 else dice.choice((1500, 10_000))
    what = dice.randrange(12)
    if what == 0:
        return dice.choice(UNCLOSED) * many
    if what == 1:
        return dice.choice("123456789") * (10 * many)  # up to 100 kB
    if what == 2:
        return "\\frac{1}{" * many + "x" + "}" * many
    if what == 3:
        opening, closing = dice.choice(("()", "[]", "{}"))
        return opening * many + "x" + closing * many
    if what == 4:
        return "".join(dice.choices(LETTERS, k=3 * many))
    if what == 5:
        return dice.choice(PROGRAMS)
    if what == 6:
        return dice.choice(TOWERS[:6])  # some others take a second even where the gold answer is a word
    if what == 7:
        return dice.choice(REPEATED) * many
    if what == 8:
        return f"{dice.randrange(10**6)}e{dice.choice((9, 99, 999, 9999999, -9999999))}"
    if what == 9:
        return dice.choice(("", " ", "\n", "\x00", r"\text{}", "{}", r"\boxed{}", "$$", r"\[\]", "####", "****"))
    if what == 10:
        return "The answer is 5. " * many
    return "".join(hostile_text(dice)[:30] for _ in range(3))


def hostile_cases(seed: int, count: int, towers: int) -> Iterator[Case]:
    """Cases from a seed. Only `towers` of them make the judge compute a tower, because each takes seconds."""
    dice = random.Random(seed)
    places = set(dice.sample(range(count), towers))
    for place in range(count):
        text = dice.choice(TOWERS) if place in places else hostile_text(dice)
        harmless = len(text) < 60 and dice.random() < 0.5 and not any(tower in text for tower in TOWERS)
        gold, kind, benchmark = dice.choice(FORMULA_GOLDS if place in places or harmless else GOLDS)
        if place == max(places):
            text, gold, kind = "9^{9^{9^{9}}}", HANGING.gold, HANGING.kind
        frame = FRAMES[0] if place in places else dice.choice(FRAMES)
        yield Case(frame.replace("%s", text), gold, kind, benchmark)


def judge_hostile(judge: JudgeName, folder: Path, *, count: int, towers: int, seed: int) -> Counter[str]:
    """Count the verdicts on hostile texts, and check limits, memory and files meanwhile."""
    me = psutil.Process()
    counts: Counter[str] = Counter()
    with GradingPool(judge, workers=2, seconds=2, megabytes=512) as pool:
        list(pool.judge([EASY] * 8))
        before = most = me.memory_info().rss
        last, slowest = time.monotonic(), 0.0
        for place, judgement in enumerate(pool.judge(hostile_cases(seed, count, towers))):
            slowest, last = max(slowest, time.monotonic() - last), time.monotonic()
            if place % 100 == 0:
                most = max(most, me.memory_info().rss)
            assert (judgement.extracted is None) == (judgement.verdict not in ("correct", "wrong"))
            counts[judgement.verdict] += 1
    assert my_workers() == []
    assert sum(counts.values()) == count
    assert set(counts) <= set(VERDICTS)
    assert slowest < 2 + MARGIN
    assert most - before < 50 * 2**20
    assert list(folder.iterdir()) == []  # no text was run as a program
    return counts


@pytest.mark.parametrize("judge", ["math-verify", "toolkit"])
def test_no_text_is_run_as_a_program(judge: JudgeName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cases = [
        Case(frame.replace("%s", program), gold, kind, benchmark)
        for program in PROGRAMS
        for gold, kind, benchmark in FORMULA_GOLDS
        for frame in FRAMES[:3]
    ]
    with GradingPool(judge, workers=2, seconds=5) as pool:
        found = Counter(judgement.verdict for judgement in pool.judge(cases))
    assert list(tmp_path.iterdir()) == []
    assert found["correct"] == 0
    assert found["wrong"] > len(cases) / 2  # the texts reached the judge


# The toolkit judge reads more of them as formulas, which takes longer.
@pytest.mark.parametrize(
    ("judge", "count"),
    [
        ("math-verify", 200),
        ("toolkit", 60),
        pytest.param("math-verify", 5000, marks=pytest.mark.slow),
        pytest.param("toolkit", 1500, marks=pytest.mark.slow),
    ],
)
def test_hostile_texts_get_verdicts(
    judge: JudgeName, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    counts = judge_hostile(judge, tmp_path, count=count, towers=5, seed=1)
    assert counts["wrong"] > count / 5
    assert counts["no_answer"] > count / 5
    # More would mean that the judge gives up on plain nonsense. Five of the texts are towers of powers.
    assert counts["timeout"] + counts["grader_error"] <= min(100, 5 + count // 15)
    assert judge == "toolkit" or counts["timeout"] >= 1  # the toolkit judge does not compute most towers


@pytest.mark.slow
@pytest.mark.parametrize("judge", ["math-verify", "toolkit"])
def test_more_hostile_texts_with_many_that_hang_get_verdicts(
    judge: JudgeName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    judge_hostile(judge, tmp_path, count=5000, towers=60, seed=2)
