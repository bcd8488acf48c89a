"""Finished evaluations as other modules read them."""

from pathlib import Path

import pytest

from lightreasoner.data.benchmarks import BENCHMARKS
from lightreasoner.errors import DataError, RunCorrupted
from lightreasoner.evaluation.folder import read_evaluation
from lightreasoner.evaluation.toolkit_import import import_toolkit

from .helpers import ITEMS, choices, line, write


def test_an_evaluation_lists_judges_by_priority_and_takes_the_figures_of_the_first(evaluation: Path) -> None:
    (task,) = read_evaluation(evaluation)
    assert (task.label, task.model, task.prompt) == ("arithmetic_chat", "miniature/expert", "chat")
    assert list(task.judged) == ["math-verify", "toolkit"]
    assert task.decisive is task.judged["math-verify"][1]
    assert task.figures["total"] == ITEMS
    assert not task.is_imported
    assert task.data_set == ("arithmetic", None, "test", None)


def test_answers_come_before_choices_and_choices_have_no_judge(tmp_path: Path) -> None:
    choices(tmp_path)
    import_toolkit(write(tmp_path / "test.jsonl", line()), tmp_path, benchmark="gsm8k")
    answers, scored = read_evaluation(tmp_path)
    assert (answers.label, answers.is_imported, answers.data_set.revision) == ("gsm8k_chat", True, None)
    assert (scored.label, scored.is_imported, scored.judged) == ("arc_challenge", False, {})
    assert scored.decisive is scored.stage
    assert scored.data_set.revision == BENCHMARKS["arc_challenge"].source.revision  # type: ignore[union-attr]


def test_an_unreadable_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no evaluation. Give the --out folder"):
        read_evaluation(tmp_path)
    choices(tmp_path)
    place = tmp_path / "likelihood" / "arc_challenge"
    (task,) = read_evaluation(tmp_path)
    (place / "choices" / "manifest.json").write_text("{}")
    with pytest.raises(RunCorrupted, match="has no valid time of creation"):
        _ = task.time
    place.rename(place.with_name("quiz"))
    with pytest.raises(DataError, match="there is no benchmark quiz"):
        read_evaluation(tmp_path)
