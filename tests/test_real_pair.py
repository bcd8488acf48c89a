"""The script of the real pair: the page's commands, and the tables of its protocol."""

from pathlib import Path

import pytest
import real_pair

from lightreasoner.evaluation.statistics import compare_pairs

from .fake_runs import fake_answer, write_evaluation

N = 40
NOT_BOXED = 3  # item whose answer ends with its number in prose


def write_arm(folder: Path, right: set[int]) -> None:
    """An evaluation in which these items are right; item `NOT_BOXED` is judged wrong for its form alone."""
    rows = []
    for item in range(N):
        text = f"So it is {item}." if item == NOT_BOXED else rf"\boxed{{{item if item in right else item + 1}}}"
        ids = [5] * (10 if item in right else 20)
        finish = "stop" if item in right else "length"
        rows.append(fake_answer(item, f"Question {item}?", text, ids, is_right=item in right, finish=finish))
    write_evaluation(folder, rows)


def table(lines: list[str], first: str) -> list[str]:
    """The cells of the row that begins so."""
    (found,) = [line for line in lines if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_the_tables_are_those_of_the_protocol(tmp_path: Path) -> None:
    untuned, one, two = set(range(10, 30)), set(range(12, 40)), set(range(10, 36))
    write_arm(tmp_path / real_pair.UNTUNED, untuned)
    for folder, right in zip(real_pair.METHOD, (one, two), strict=True):
        write_arm(tmp_path / folder, right)
    write_arm(tmp_path / real_pair.OTHERS["no contrast"], untuned - {10})
    lines = "\n".join(real_pair.tables(tmp_path)).splitlines()

    of_seed = table(lines, "seed 1")
    assert of_seed[1:4] == ["40", "50.0", "70.0"]
    assert of_seed[5] == "10 / 2"
    assert float(of_seed[6]) == pytest.approx(0.0386, abs=5e-4)  # 2 · (1 + 12 + 66) / 2¹²
    primary = table(lines, "primary: mean of both seeds")
    scores = [[float(item in right) for item in range(N)] for right in (untuned, one, two)]
    expected = compare_pairs(scores[0], [(a + b) / 2 for a, b in zip(*scores[1:], strict=True)], samples=2)
    assert primary[2:4] == ["50.0", "67.5"]
    assert primary[4].startswith(f"+17.5 ({100 * expected.gain.low:+.1f} to")

    # Holm's correction for eight tests, of which two are there.
    first, second = table(lines, "untuned expert → no contrast"), table(lines, "method, seed 1 → no contrast")
    assert float(first[6]) == 1
    assert float(second[7]) == pytest.approx(8 * float(second[6]), rel=0.05)  # two digits

    form = table(lines, "method, seed 1")
    assert form[1:6] == ["13", "30.0 %", "97.5 %", "70.0", "72.5"]  # 28 of 40 end by themselves, with 10 tokens
    assert form[6].startswith("+20.0 (")  # both sides gain the item that is not boxed
    text = (tmp_path / "changed.txt").read_text(encoding="utf-8")
    assert text.count("method, seed 1: became right") == 10
    assert text.count("method, seed 1: became wrong") == 2


def test_an_arm_that_is_missing_is_left_out(tmp_path: Path) -> None:
    assert list(real_pair.tables(tmp_path)) == [f"{tmp_path / real_pair.UNTUNED} is not finished"]
    write_arm(tmp_path / real_pair.UNTUNED, {1})
    write_arm(tmp_path / real_pair.METHOD[1], {1, 2})
    write_arm(tmp_path / real_pair.OTHERS["no contrast"], {1})
    text = "\n".join(real_pair.tables(tmp_path))
    assert "| seed 2 |" in text
    assert "primary" not in text
    assert "seed 1" not in text


def test_the_commands_are_those_of_the_page(tmp_path: Path) -> None:
    page = real_pair.PAGE.read_text(encoding="utf-8")
    lines = list(real_pair.commands(page, "m/E", "m/A", tmp_path, tmp_path / "data"))
    assert {words[0] for words in lines} == {"lightr"}
    assert lines[0][1] == "run"
    flat = [word for words in lines for word in words]
    assert not [word for word in flat if word.startswith("real/") or word.endswith(".gguf")]
    answered = {words[words.index("--out") + 1] for words in lines if words[1] == "evaluate"}
    arms = {real_pair.METHOD[1], *real_pair.OTHERS.values()}
    arms |= {f"{arm}/{part}" for arm in ("base", "method-1", "best-1") for part in real_pair.SECONDARY.values()}
    assert answered == {str(tmp_path / arm) for arm in arms}
    assert all("--data-dir" in words for words in lines if words[1] in {"run", "sample", "baseline", "evaluate"})
