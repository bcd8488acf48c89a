"""The report holds the content of the run's files."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from lightreasoner.config import EvaluateConfig, SelectConfig
from lightreasoner.errors import DataError
from lightreasoner.evaluation.evaluate import evaluate
from lightreasoner.report import markdown, report, write_page
from lightreasoner.samples.selecting import select

from .helpers import copy_of, read_blocks, rows_of


def test_a_run_ends_with_its_report(small_run: Path) -> None:
    page = (small_run / "report.html").read_text()
    found = report(small_run)
    assert found.verdict.replace(" %", "\u00a0%") in page.replace("&lt;", "<")
    assert found.missing == ()
    assert str(Path.cwd()) not in found.verdict


def test_accuracies_are_those_of_the_summary(small_run: Path) -> None:
    summary = json.loads((small_run / "summary.json").read_text())
    found = report(small_run)
    (row,) = found.accuracies
    for score, key in ((row.before, "evaluate_before"), (row.after, "evaluate_after")):
        figures = summary[key]["chat/arithmetic"]
        assert score is not None
        assert (score.value, score.low, score.high, row.total) == tuple(
            figures[name] for name in ("accuracy", "low", "high", "total")
        )
    assert json.loads(json.dumps(row.test)) == summary["comparison"]["benchmarks"][0]
    assert found.cost.seconds == summary["seconds"]
    assert found.cost.sampling_and_tuning == summary["seconds"]["sample"] + summary["seconds"]["finetune"]
    assert found.cost.problems == summary["sample"]["questions"] == 40
    assert found.cost.tuned_tokens == summary["finetune"]["labels_trained"] == 12 * 16
    assert found.cost.gain == pytest.approx(100 * summary["comparison"]["benchmarks"][0]["gain"])
    log = json.loads((small_run / "finetune" / "log.json").read_text())
    assert [dict(entry) for entry in found.training] == [entry for entry in log if "loss" in entry]
    assert len(found.training) == 6
    cells = re.findall(r'<td class="n">(.*?)</td>', (small_run / "report.html").read_text())
    for key in ("before", "after"):
        assert any(cell.startswith(f"{100 * row.test[key]:.1f} (") for cell in cells)
    assert f"{100 * row.test['gain']:+.1f} ({100 * row.test['low']:+.1f} to {100 * row.test['high']:+.1f})" in cells


@pytest.mark.parametrize(
    ("kept", "says", "never"),
    [
        (("sample",), "40 problems of arithmetic were sampled from miniature/expert", "Accuracy"),
        (("sample", "finetune"), "was fine-tuned on 192 labels", "Accuracy"),
        (("evaluate",), "made no detectable difference|raised|lowered", "Token by token"),
        (("finetune",), "was fine-tuned on 192 labels", "Token by token"),
    ],
)
def test_a_part_of_a_run_gets_a_report_of_its_stages(
    small_run: Path, tmp_path: Path, kept: tuple[str, ...], says: str, never: str
) -> None:
    part = tmp_path / "part"
    part.mkdir()
    copy_of(small_run, part, *kept)
    found = report(part)
    assert re.search(says, found.verdict), found.verdict
    assert found.missing
    write_page(part)
    page = (part / "report.html").read_text()
    assert f"<h2>{never}</h2>" not in page
    assert "Not in this report" in page
    assert markdown(found)


def test_an_empty_folder_is_refused_and_an_unfinished_stage_is_listed(small_run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds nothing to report"):
        report(tmp_path)
    part = tmp_path / "part"
    part.mkdir()
    copy_of(small_run, part, "sample", "finetune")
    (part / "finetune" / "result.json").unlink()
    found = report(part)
    assert found.cost.tuned_tokens is None
    assert any("not finished" in text for text in found.missing)


def test_a_part_of_a_run_names_the_command_that_continues_it(small_run: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.mkdir()
    copy_of(small_run, part, "sample", "config.yaml")
    assert report(part).completing == (f"lightr run --config {part / 'config.yaml'} --out {part}",)
    assert f"    {report(part).completing[0]}" in markdown(report(part))
    write_page(part)
    assert report(part).completing[0] in (part / "report.html").read_text()
    assert report(small_run).completing == ()


def test_a_report_of_an_own_benchmark_names_its_file(small_run: Path, tmp_path: Path) -> None:
    """The samples and one evaluation of a file whose items were all drawn by a seed."""
    run, file = copy_of(small_run, tmp_path, "sample"), tmp_path / "exam.jsonl"
    file.write_text("".join(json.dumps({"question": f"{n} + 1?", "answer": n + 1}) + "\n" for n in range(3)))
    settings = {"benchmarks": [str(file)], "max_items": 3, "items_seed": 1, "max_answer_tokens": 2}
    evaluate(EvaluateConfig.checked({**settings, "model": "miniature/expert", "out": run / "evaluate" / "expert"}))
    (command,) = (line for line in report(run).completing if line.startswith("lightr evaluate"))
    assert f"--benchmarks {file}" in command
    assert "--max-items 3" in command
    assert "--items-seed 1" in command
    file.unlink()
    assert command in report(run).completing


def test_an_evaluation_directly_in_its_folder_is_that_of_the_merged_model(small_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run / "evaluate" / "merged", run / "evaluate")
    assert report(run).accuracies[0].before is None
    shutil.copytree(small_run / "evaluate" / "expert", run / "evaluate" / "expert")
    row, whole = report(run).accuracies[0], report(small_run).accuracies[0]
    assert (row.before, row.after, row.lengths) == (whole.before, whole.after, whole.lengths)


def test_samples_that_were_selected_show_no_time_of_sampling(small_run: Path, tmp_path: Path) -> None:
    config = SelectConfig(source=small_run, out=tmp_path, selection="random", keep_labels=9)
    select(config)
    cost = report(tmp_path).cost
    assert list(cost.seconds) == ["select"]
    assert cost.sampling_and_tuning is None
    assert report(small_run).cost.seconds.keys() >= {"sample", "finetune"}


def test_imported_samples_have_a_report(small_run: Path, tmp_path: Path) -> None:
    from lightreasoner.samples.jsonl import export_samples, import_samples

    export_samples(small_run, tmp_path / "samples.jsonl")
    import_samples(tmp_path / "samples.jsonl", tmp_path / "imported", expert="miniature/expert")
    found = report(tmp_path / "imported")
    _, steps = rows_of(small_run)
    assert found.labels.kept == len(steps)
    assert found.labels.steps == 0
    assert found.labels.histogram == ()
    assert found.labels.mean_support == pytest.approx(np.mean([len(step.token_ids) for step in steps.values()]))
    write_page(tmp_path / "imported")
    blocks = dict(read_blocks((tmp_path / "imported" / "report.html").read_bytes()))
    known = [kl for entry in blocks["index-0"] for kl in entry["k"] if kl is not None]
    assert set(known) <= {round(1000 * step.kl) for step in steps.values()}


def test_different_prompts_are_one_row_and_the_judge_of_the_settings_counts(small_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run / "evaluate", run / "evaluate")
    shutil.copy(small_run / "config.yaml", run)
    (run / "evaluate" / "expert" / "chat").rename(run / "evaluate" / "expert" / "plain")
    (row,) = report(run).accuracies
    assert (str(row.prompts), row.prompts) == ("plain → chat", ("plain", "chat"))
    (values,) = report(run).as_dict()["accuracies"]
    assert (values["prompt"], values["prompts"]) == (None, ("plain", "chat"))
    (values,) = report(small_run).as_dict()["accuracies"]
    assert (values["prompt"], values["prompts"]) == ("chat", ("chat", "chat"))
    assert row.before is not None
    assert row.after is not None
    assert row.test == report(small_run).accuracies[0].test | {
        "prompt": None,
        "prompts": ("plain", "chat"),
        "warnings": row.test["warnings"],
    }
    # Another judge, who finds everything wrong, beside the one that the settings name.
    for place in (run / "evaluate").glob("*/*/arithmetic"):
        shutil.copytree(place / "math-verify", place / "toolkit")
        result = json.loads((place / "toolkit" / "result.json").read_text())
        result["result"] |= {"accuracy": 0.0, "low": 0.0, "high": 0.1}
        (place / "toolkit" / "result.json").write_text(json.dumps(result))
    assert report(run).accuracies[0].after == row.after
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("judge: math-verify", "judge: toolkit"))
    assert report(run).accuracies[0].after.value == 0.0
