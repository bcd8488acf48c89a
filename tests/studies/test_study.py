"""Whole studies: from nothing to reports, resumed at no cost, reported in spite of failures."""

import json
from pathlib import Path

import pytest

from lightreasoner.errors import ConfigError, RunError
from lightreasoner.studies.job import Job
from lightreasoner.studies.study import STUDIES, study


def test_every_table_and_figure_of_the_paper_is_a_study() -> None:
    of_the_paper = {f"table{n}" for n in range(1, 9)} | {f"figure{n}" for n in range(1, 10)}
    others = {"selection", "sweeps", "baselines", "choose", "judge", "rounds", "calibration"}
    assert of_the_paper | others == set(STUDIES)


def replace_make(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Let every job fail."""

    def fail(job: Job) -> dict[str, object]:
        raise error

    for kind in Job.__subclasses__():
        monkeypatch.setattr(kind, "make", fail)


def test_a_study_is_written_and_finished_jobs_do_not_run_again(
    tiny: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = json.loads((finished / "reports" / "figure8.table.json").read_text())["rows"]
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert all(1 < float(row["perplexity"]) < 640 for row in rows)
    assert "Figure 8" in (finished / "page.md").read_text()

    replace_make(monkeypatch, AssertionError("no job may run"))
    for name in ("figure8", "figure2", "figure3"):
        found = study(name, recipes=[str(tiny)], out=finished, seeds=1, workers=1)
        assert {Path(path).suffix for path in found[name]["files"]} == {".md", ".csv", ".json", ".svg", ".png"}


def test_a_study_that_needs_no_failed_job_is_reported(
    tiny: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_make(monkeypatch, RunError("out of luck"))
    chosen = {name: STUDIES[name] for name in ("figure2", "table7")}
    monkeypatch.setattr("lightreasoner.studies.study.STUDIES", chosen)
    (finished / "reports" / "figure2.md").unlink(missing_ok=True)
    with pytest.raises(RunError, match="jobs failed: .*out of luck"):
        study("all", recipes=[str(tiny)], out=finished, seeds=1, workers=1)
    assert (finished / "reports" / "figure2.md").exists()
    assert not (finished / "reports" / "table7.md").exists()


def test_transfer_evaluates_the_expert_that_was_trained_before(tiny: Path, finished: Path, tmp_path: Path) -> None:
    settings = json.loads(tiny.read_text())
    settings["study"]["transfer"] = ["arithmetic"]
    file = tmp_path / "transfer.yaml"
    file.write_text(json.dumps(settings))
    trained = sorted((finished / "trainings").iterdir())
    found = study("table8", recipes=[str(file)], out=finished, seeds=1, workers=1)
    assert sorted((finished / "trainings").iterdir()) == trained
    (before,), (after,) = trained[0].glob("evaluate/*/*/*/verdicts*"), (finished / "transfers").rglob("verdicts*")
    assert before.read_bytes() == after.read_bytes()
    assert "the method helps on another subject" in "\n".join(found["table8"]["lines"])


@pytest.mark.slow
def test_a_training_of_few_steps_has_a_loss_curve(tiny: Path, tmp_path: Path) -> None:
    study("figure9", recipes=[str(tiny)], out=tmp_path, seeds=1, workers=1)
    rows = json.loads((tmp_path / "reports" / "figure9.table.json").read_text())["rows"]
    assert rows
    assert all(float(row["cross-entropy"]) > 0 for row in rows)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="no study table9: did you mean table"):
        study("table9")
    with pytest.raises(ConfigError, match="no recipe"):
        study("table1", recipes=["nope"])


@pytest.mark.slow
def test_the_quick_form_of_all_studies(tiny: Path, tmp_path: Path) -> None:
    settings = json.loads(tiny.read_text())
    settings["sample"]["max_questions"] = 64  # enough problems for a majority and a sample against it
    settings["evaluate"]["max_answer_tokens"] = 96
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(settings))
    found = study("all", recipes=[str(recipe)], out=tmp_path, quick=True, workers=2, page_file=tmp_path / "page.md")
    assert found.keys() == STUDIES.keys()
    page_text = (tmp_path / "page.md").read_text()
    assert all(report["title"] in page_text for report in found.values())
    again = study("all", recipes=[str(recipe)], out=tmp_path, quick=True, workers=2)
    assert {name: report["lines"] for name, report in again.items()} == {
        name: report["lines"] for name, report in found.items()
    }
