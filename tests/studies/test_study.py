"""Studies: shared cells, resumed work, honest statistics, reports that say where their numbers are from."""

import csv
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from peft import PeftModel

from lightreasoner.config import RunConfig, SampleConfig
from lightreasoner.errors import ConfigError, RunError
from lightreasoner.evaluation.statistics import Interval
from lightreasoner.miniature.word_problems import THEMES
from lightreasoner.models.loading import find_model, load_model
from lightreasoner.recipes import load_recipe, recipe_names
from lightreasoner.report import figures
from lightreasoner.runs.records import Rollout
from lightreasoner.runs.stage import read_stage
from lightreasoner.studies import grids, making, outcomes, tables
from lightreasoner.studies import scheduler as work
from lightreasoner.studies.figures import REPORTS
from lightreasoner.studies.grids import GRIDS, Plan, Scope
from lightreasoner.studies.jobs import Job, Themes, Train, pool
from lightreasoner.studies.outcomes import Difference, Group, difference
from lightreasoner.studies.reports import Claim, P, Report, judged, judged_together, page, threshold, write
from lightreasoner.studies.study import study


def scope_of(*recipes: str, root: Path = Path("root"), seeds: int | None = None, quick: bool = True) -> Scope:
    names = recipes or ("miniature", "miniature-instruct")
    return Scope.of([RunConfig.checked(load_recipe(name)) for name in names], root, seeds, quick)


def jobs_of(plan: Plan) -> dict[Path, Job]:
    waiting = [job for jobs in plan.values() for job in jobs]
    found: dict[Path, Job] = {}
    while waiting:
        job = waiting.pop()
        found[job.folder] = job
        waiting += job.needs()
    return found


# --- Grids ---


def test_every_table_and_figure_of_the_paper_has_a_grid_and_a_report() -> None:
    of_the_paper = {f"table{n}" for n in range(1, 9)} | {f"figure{n}" for n in range(1, 10)}
    assert of_the_paper | {"selection", "sweeps"} == set(GRIDS) == set(REPORTS)


def test_studies_share_what_they_have_in_common() -> None:
    scope = scope_of()
    full = jobs_of({"full": scope.method(scope.main, 1)})
    for name in ("table1", "table4", "table5", "table6", "table7", "selection", "sweeps", "figure4", "figure8"):
        assert full.keys() <= jobs_of(GRIDS[name](scope)).keys(), name
    assert jobs_of(GRIDS["figure2"](scope)).keys() <= full.keys()


def test_selections_of_one_seed_share_one_sampling() -> None:
    plan = GRIDS["selection"](scope_of())
    samples = [job for job in jobs_of(plan).values() if isinstance(job.subject, SampleConfig)]
    trainings = [job for job in jobs_of(plan).values() if isinstance(job.subject, Train)]
    assert len(samples) == 1
    assert len(trainings) == 1 + len(grids.RULES)
    assert samples[0].subject.divergence_beta is None  # type: ignore[union-attr]


def test_the_base_is_asked_in_both_ways_and_tuned_models_in_their_own() -> None:
    plan = GRIDS["table1"](scope_of("qwen2.5-math-1.5b"))
    asked = {
        name: {(job.subject.recipe.evaluate if isinstance(job.subject, Train) else job.subject).prompts for job in jobs}  # type: ignore[union-attr]
        for name, jobs in plan.items()
    }
    expert = "Qwen/Qwen2.5-Math-1.5B"
    assert asked == {f"{expert} base": {"both"}, f"{expert} SFT": {"chat"}, f"{expert} LightReasoner": {"chat"}}


def test_a_folder_is_named_by_what_decides_its_content() -> None:
    scope = scope_of()
    job = scope.method(scope.main, 2)[0]
    assert job.folder != scope.method(scope.main, 2)[1].folder
    assert job.folder != scope.method(scope.main, 2, {"threshold": 0.5})[0].folder
    assert job.folder != scope.method(scope.main, 2, finetune={"steps": 7})[0].folder
    same = scope.method(scope.main, 1, sample={"batch_size": 7})[0]
    assert job.folder == same.folder
    elsewhere = scope_of(root=Path("other"))
    assert elsewhere.method(elsewhere.main, 1)[0].folder.relative_to("other") == job.folder.relative_to("root")


def test_greedy_rollouts_of_given_problems_are_made_once_for_all_seeds() -> None:
    scope = scope_of("qwen2.5-math-1.5b", seeds=3)
    pools = {job.folder for job in jobs_of({"full": scope.method(scope.main, 3)}).values() if job.wave == 1}
    assert len(pools) == 1
    miniature = scope_of(seeds=3)
    drawn = jobs_of({"full": miniature.method(miniature.main, 3)}).values()
    assert len([job for job in drawn if job.wave == 1]) == 3  # each seed draws problems of its own


@pytest.mark.parametrize("recipe", recipe_names())
@pytest.mark.parametrize("quick", [True, False])
def test_every_study_has_a_grid_for_every_recipe(recipe: str, quick: bool) -> None:
    scope = scope_of(recipe, quick=quick)
    for name, grid in GRIDS.items():
        jobs = jobs_of(grid(scope)).values()
        assert jobs, name
        for job in jobs:
            assert all(need.wave < job.wave for need in job.needs())
            if isinstance(job.subject, Train) and job.subject.select and job.subject.select.plausibility_alpha:
                assert job.subject.select.plausibility_alpha >= pool(job.subject.recipe).plausibility_alpha


def test_the_miniatures_expert_has_pairings_with_weaker_and_stronger_amateurs() -> None:
    plan = GRIDS["table5"](scope_of())
    pairs = [name for name in plan if name.startswith("miniature/expert × ")]
    assert len(pairs) == 6
    assert "miniature/expert × miniature/instruct" in pairs


# --- Work ---


def toy_job(root: Path, seed: int) -> Job:
    scope = scope_of(root=root)
    return Job(root, pool(scope.main.model_copy(update={"seed": seed})))


def test_finished_jobs_are_not_made_again_and_failed_ones_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def make_toy(job: Job) -> dict[str, object]:
        assert isinstance(job.subject, SampleConfig)
        made.append(job.subject.seed)
        if job.subject.seed == 2 and made.count(2) == 1:
            raise RunError("no luck")
        return {"seed": job.subject.seed}

    monkeypatch.setitem(making.MAKERS, SampleConfig, make_toy)
    jobs = [toy_job(tmp_path, seed) for seed in (1, 2, 3, 1)]
    with pytest.raises(RunError, match="1 jobs failed: .*no luck.*tries them again"):
        work.make(jobs, workers=1)
    assert sorted(made) == [1, 2, 3]
    work.make(jobs, workers=1)
    assert sorted(made) == [1, 2, 2, 3]
    assert jobs[1].done == {"results": {"seed": 2}, "seconds": {}}


def test_workers_make_the_same_and_survive_a_failing_job(tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    themes = sorted(THEMES)
    for root, workers in ((alone, 1), (together, 2)):
        jobs = [Job(root, Themes(themes=(theme,), count=5, seed=3)) for theme in themes[:3]]
        wrong = Job(root, Themes(themes=("no such kind",), count=5, seed=3))
        with pytest.raises(RunError, match="1 jobs failed: .*AssertionError, see .*log.txt"):
            work.make([*jobs, wrong], workers)
        assert all(job.done is not None for job in jobs)
        assert wrong.done is None
    files = sorted(path.relative_to(alone) for path in alone.rglob("problems.jsonl"))
    assert len(files) == 3
    assert all((alone / file).read_bytes() == (together / file).read_bytes() for file in files)


@pytest.mark.slow
def test_a_study_that_is_told_to_stop_takes_its_workers_with_it(tiny: Path, tmp_path: Path) -> None:
    settings = json.loads(tiny.read_text())
    settings["finetune"]["steps"] = 5000
    file = tmp_path / "long.yaml"
    file.write_text(json.dumps(settings))
    arguments = f"study table7 --recipe {file} --seeds 1 --workers 2 --out {tmp_path / 'out'}".split()
    process = subprocess.Popen([sys.executable, "-m", "lightreasoner.cli", *arguments], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 240
    while len(list((tmp_path / "out").glob("trainings/*/finetune/log.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.5)
    workers = psutil.Process(process.pid).children()
    assert len(workers) == 2
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert b"stopped on request" in said
    assert not any(worker.is_running() for worker in workers)
    assert list((tmp_path / "out").glob("trainings/*/finetune/checkpoint-*/complete.json"))


@pytest.mark.parametrize("name", GRIDS)
def test_a_job_reaches_another_process_unchanged(name: str) -> None:
    for job in jobs_of(GRIDS[name](scope_of())).values():
        again = Job.from_json(job.to_json())
        assert (again, again.folder) == (job, job.folder)


def test_the_time_of_a_stage_adds_up_over_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 2.0, 10.0, 13.0])
    monkeypatch.setattr(making.time, "perf_counter", lambda: next(clock))
    with pytest.raises(RunError), making._timed(tmp_path, "sample"):
        raise RunError("stopped")
    with making._timed(tmp_path, "sample"):
        pass
    assert json.loads((tmp_path / "seconds.json").read_text()) == {"sample": 5.0}


# --- Statistics ---


def group(*seeds: dict[str, list[float]]) -> Group:
    made = Group([])
    made.__dict__["scores"] = [
        {column: {f"{place}": score for place, score in enumerate(items)} for column, items in seed.items()}
        for seed in seeds
    ]
    return made


def test_the_average_counts_columns_alike_and_seeds_are_averaged() -> None:
    found = group({"a": [1, 1], "b": [0, 0, 0, 1]}, {"a": [1, 0], "b": [0, 0, 0, 0]})
    assert found.by_seed() == [pytest.approx(62.5), pytest.approx(25.0)]
    assert found.accuracy("AVG") == pytest.approx(43.75)
    assert found.accuracy("a") == pytest.approx(75.0)
    assert found.mean_scores("b") == {"0": 0, "1": 0, "2": 0, "3": 0.5}


def test_a_difference_is_paired_over_items_and_over_seeds() -> None:
    base = group({"a": [0.0] * 60})
    better = group({"a": [1.0] * 30 + [0.0] * 30}, {"a": [1.0] * 32 + [0.0] * 28}, {"a": [1.0] * 31 + [0.0] * 29})
    found = difference(base, better)
    assert found.gain.value == pytest.approx(100 * 31 / 60)
    assert found.gain.low < found.gain.value < found.gain.high
    assert found.p_items < 0.001
    assert found.p_seeds is not None
    assert found.p_seeds < 0.01
    assert found.seeds == 3
    assert found.p_value == max(found.p_items, found.p_seeds)
    assert difference(better, better).gain.value == 0


def test_a_claim_is_decided_only_where_the_difference_is_sure() -> None:
    def told(gain: float, p_items: float, p_seeds: float | None) -> str:
        return judged("x", Difference(Interval(gain, gain - 1, gain + 1), p_items, p_seeds, 3)).verdict

    assert told(2.0, 0.01, 0.01) == "holds"
    assert told(-2.0, 0.01, 0.01) == "does not hold"
    assert told(2.0, 0.01, 0.3) == told(2.0, 0.3, 0.01) == "not decided"
    assert told(2.0, 0.01, None) == "holds"
    assert judged("x", Difference(Interval(2, 1, 3), 0.01, 0.01, 3), p_value=0.2).verdict == "not decided"
    assert [threshold("x", value, 5).verdict for value in (5.0, 5.1)] == ["holds", "does not hold"]


def test_arithmetic_is_told_apart_by_kind_of_problem() -> None:
    themes = outcomes._theme_of()
    assert len(themes) == 2000
    assert set(themes.values()) == set(THEMES)


def test_several_claims_need_more_to_be_decided_than_one() -> None:
    found = [Difference(Interval(2, 1, 3), p, p, 5) for p in (0.001, 0.04, 0.03)]
    told = judged_together([(str(place), pair) for place, pair in enumerate(found)])
    assert [claim.verdict for claim in told] == ["holds", "not decided", "not decided"]
    assert "after Holm's correction 0.06" in told[1].evidence


# --- Tables of made-up groups, their numbers worked by hand ---


class MadeUp(Group):
    """A setting whose counts and times are given."""

    def __init__(self, accuracies: list[float], counts: dict[str, float], seconds: dict[str, float]) -> None:
        super().__init__([])
        items = 100
        self.__dict__["scores"] = [
            {"a": {f"{place}": float(place < round(items * accuracy)) for place in range(items)}}
            for accuracy in accuracies
        ]
        self.jobs = [Job(Path("root"), Themes(themes=(), count=0, seed=seed)) for seed in range(len(accuracies))]
        self.counts, self.times = counts, seconds

    def count(self, stage: str, name: str) -> float:
        return self.counts[f"{stage}.{name}"]

    def seconds(self, *names: str) -> float:
        return sum(self.times.get(name, 0.0) for name in names)


def made_up(*accuracies: float, **counts: float) -> Group:
    given = {name.replace("__", "."): value for name, value in counts.items()}
    return MadeUp(list(accuracies), given, {"sample": 10.0, "select": 5.0, "finetune": counts.get("seconds", 0.0)})


def test_the_efficiency_table_divides_the_methods_cost_by_the_rivals() -> None:
    scope = scope_of("miniature")
    expert = scope.main.expert
    report = tables.table2(
        scope,
        {
            f"{expert} base": made_up(0.2),
            f"{expert} SFT": made_up(
                0.3, sample__questions=5000, sample__answers_kept=1000, finetune__labels_trained=200_000,
                finetune__labels=200_000, seconds=185.0,
            ),
            f"{expert} LightReasoner": made_up(
                0.5, sample__questions=1000, finetune__labels_trained=6400, finetune__labels=7000, seconds=35.0
            ),
            f"{expert} {grids.FRUGAL}": made_up(
                0.6, sample__questions=1050, finetune__labels_trained=12_000, finetune__labels=3500, seconds=36.0
            ),
        },
    )  # fmt: skip
    sft, method, _ = (dict(zip(report.header, row, strict=True)) for row in report.rows)
    assert (sft["time (s)"], sft["problems"], sft["answers kept"], sft["tuned tokens"]) == (200, 5000, 1000, 200_000)
    assert (method["time (s)"], method["problems"], method["tuned tokens"]) == (50, 1000, 6400)
    assert sft["gain (95 %)"].value == pytest.approx(10)
    assert method["gain (95 %)"].value == pytest.approx(30)
    assert [claim.evidence for claim in report.claims[:-1]] == [
        "25, at most 25", "20, at most 20", "3.2, at most 5", "25.5, at most 25", "21, at most 20", "6, at most 5",
    ]  # fmt: skip
    assert [claim.verdict for claim in report.claims] == ["holds"] * 3 + ["does not hold"] * 3 + ["holds"]


def test_the_ablations_are_told_in_the_papers_order() -> None:
    accuracies = {
        "base": [0.2],
        "rejection SFT": [0.30, 0.32, 0.31],
        "ground-truth SFT": [0.9, 0.91, 0.92],
        "full LightReasoner": [0.60, 0.62, 0.61],
        "no selection": [0.50, 0.51, 0.53],
        "no contrast (own token)": [0.40, 0.42, 0.41],
        "no contrast (own distribution)": [0.40, 0.42, 0.41],
        "neither (own token)": [0.40, 0.41, 0.42],
    }
    report = tables.table6(scope_of("miniature"), {name: made_up(*values) for name, values in accuracies.items()})
    rows = {row[0]: dict(zip(report.header, row, strict=True)) for row in report.rows}
    assert rows["full LightReasoner"]["AVG"] == pytest.approx(61)
    assert rows["no selection"]["gain (95 %)"].value == pytest.approx(51.3 - 20, abs=0.05)
    verdicts = {claim.text: claim.verdict for claim in report.claims}
    assert verdicts["the means are in the paper's order"] == "holds"
    assert verdicts["full is better than no selection"] == "holds"
    assert verdicts["no contrast is better than neither"] == "not decided"
    assert verdicts["full is better than rejection SFT"] == "holds"
    assert verdicts["full is better than ground-truth SFT"] == "does not hold"


def test_a_gap_is_expert_minus_amateur_and_gains_are_ranked_with_it() -> None:
    scope = scope_of("miniature")
    expert, pairings = scope.main.expert, grids.pairings(scope)
    groups = {f"{expert} base": made_up(0.5)}
    for place, (_, amateur, _) in enumerate(pairings):
        gap = 0.4 - 0.1 * place  # of six pairs the last one's amateur is the stronger
        groups[amateur] = made_up(0.5 - gap)
        groups[f"{expert} × {amateur}"] = made_up(*[0.5 + gap / 2] * 2, select__kept_steps=10)
    report = tables.table5(scope, groups)
    rows = [dict(zip(report.header, row, strict=True)) for row in report.rows]
    assert [row["gap"] for row in rows] == pytest.approx([40, 30, 20, 10, 0, -10])
    assert rows[0]["AVG after"] == pytest.approx(70)
    assert "Spearman's ρ = 1.00" in report.claims[0].evidence
    assert report.claims[0].verdict == "holds"
    assert report.claims[-1].text.endswith(pairings[-1][2])
    assert report.claims[-1].verdict == "not decided" if report.rows[-1][5].high > 0 else "holds"


# --- Reports ---

REPORT = Report(
    "Table 0: things",
    ["setting", "AVG", "gain", "p", "seeds"],
    [["base", 20.04, None, None, 1], ["tuned", 43.66, Interval(23.6, 21.0, 26.2), P(0.00012), 3]],
    [Claim("it helps", "holds", "+23.6")],
    ["n = 5"],
)


def test_reports_are_written_for_people_and_for_machines(tmp_path: Path) -> None:
    files = write("table0", REPORT, tmp_path, {"quick": True})
    assert {path.name for path in files} == {"table0.md", "table0.csv", "table0.json"}
    text = (tmp_path / "table0.md").read_text()
    assert "| tuned   | 43.7 | +23.6 (+21.0 to +26.2) | 0.00012 | 3     |" in text
    assert "- it helps: **holds** (+23.6)." in text
    rows = list(csv.DictReader((tmp_path / "table0.csv").open()))
    assert rows[0] == {"setting": "base", "AVG": "20.0", "gain": "–", "p": "–", "seeds": "1"}
    content = json.loads((tmp_path / "table0.json").read_text())
    assert content["rows"][1]["gain"] == {"value": 23.6, "low": 21.0, "high": 26.2}
    assert content["rows"][1]["p"] == 0.00012
    assert content["environment"]["torch"]
    assert content["quick"] is True


def test_the_page_names_the_command_of_every_section_and_the_papers_figures(tmp_path: Path) -> None:
    drawn = replace(REPORT, draw=lambda: figures.grouped_bars(["a"], {"panel": {"series": [1.0]}}), data=[{"a": 1}])
    written, file = tmp_path / "reports", tmp_path / "docs" / "results.md"
    write("figure7", drawn, written, {})

    def write_page() -> str:
        page(
            file,
            {"table6": REPORT, "sweeps": REPORT, "figure7": drawn},
            written=written,
            missing=["table8"],
            command="lightr study {} --seeds 2",
            minutes=12.3,
            workers=2,
        )
        return file.read_text()

    file.parent.mkdir()
    text = write_page()
    assert "`lightr study table6 --seeds 2`" in text
    assert "`lightr study all --seeds 2 --write" in text
    assert "| full LightReasoner | 54.0 |" in text
    assert text.count("The paper's:") == 2
    assert "**Not here, because some of their jobs failed: table8.**" in text
    assert "](results/figure7.png)" in text
    assert (file.parent / "results" / "figure7.png").read_bytes() == (written / "figure7.png").read_bytes()

    mark = "<!-- reading: table6 -->\n"
    file.write_text(text.replace(mark, mark + "It holds.\n\nNearly."))
    again = write_page()
    assert mark + "It holds.\n\nNearly.\n<!-- end -->" in again
    assert again.count("It holds.") == 1


# --- The whole way ---


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe so small that a study takes seconds."""
    settings = load_recipe("miniature")
    settings["sample"] |= {"max_questions": 24, "max_new_tokens": 16}
    settings["finetune"] |= {"steps": 4, "labels_per_step": 8}
    settings["evaluate"] |= {"max_items": 24, "max_answer_tokens": 32}
    settings["study"] = {"lengths": [8, 16], "sft_questions": 48}
    file = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    file.write_text(json.dumps(settings))
    return file


@pytest.fixture(scope="module")
def made(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("studies")
    study("figure8", recipes=[str(tiny)], out=out, seeds=1, workers=1, page_file=out / "page.md")
    return out


def test_a_study_from_nothing_to_its_files_and_again_at_no_cost(
    tiny: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = json.loads((made / "reports" / "figure8.table.json").read_text())["rows"]
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert all(1 < float(row["perplexity"]) < 640 for row in rows)
    assert "Figure 8" in (made / "page.md").read_text()

    def never(job: Job) -> dict[str, object]:
        raise AssertionError(job)

    for subject in making.MAKERS:
        monkeypatch.setitem(making.MAKERS, subject, never)
    for name in ("figure8", "figure2", "figure3"):
        found = study(name, recipes=[str(tiny)], out=made, seeds=1, workers=1)
        assert {Path(path).suffix for path in found[name]["files"]} == {".md", ".csv", ".json", ".svg", ".png"}


def test_held_out_loss_is_that_of_the_base_and_of_the_adapter(made: Path) -> None:
    (losses,) = (made / "losses").glob("*/done.json")
    curve = json.loads(losses.read_text())["results"]["losses"]
    (solutions,) = (made / "held-out").glob("*/sample")
    (adapter,) = (made / "trainings").glob("*/finetune/adapter")
    _, stage = read_stage(solutions)
    rows = [row for table in stage.tables("rollouts") for row in Rollout.rows(table)]
    assert len(rows) == 200
    model = load_model(find_model("miniature/expert"), dtype="float32", device="cpu")

    @torch.inference_mode()
    def loss(forward: Any) -> float:
        total, tokens = 0.0, 0
        for row in rows:
            logits = forward(torch.tensor([row.prompt_ids + row.response_ids])).logits[0, len(row.prompt_ids) - 1 : -1]
            targets = torch.tensor(row.response_ids)
            total += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
            tokens += len(targets)
        return total / tokens

    assert curve[0] == {"step": 0, "loss": pytest.approx(loss(model), rel=1e-4)}
    assert curve[-1] == {"step": 4, "loss": pytest.approx(loss(PeftModel.from_pretrained(model, adapter)), rel=1e-4)}
    assert curve[0]["loss"] != curve[-1]["loss"]


def test_what_does_not_need_a_failed_job_is_reported_nevertheless(
    tiny: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(job: Job) -> dict[str, object]:
        raise RunError("out of luck")

    for subject in making.MAKERS:
        monkeypatch.setitem(making.MAKERS, subject, fail)
    chosen = {name: GRIDS[name] for name in ("figure2", "table7")}
    monkeypatch.setattr("lightreasoner.studies.study.GRIDS", chosen)
    (made / "reports" / "figure2.md").unlink(missing_ok=True)
    with pytest.raises(RunError, match="jobs failed: .*out of luck"):
        study("all", recipes=[str(tiny)], out=made, seeds=1, workers=1)
    assert (made / "reports" / "figure2.md").exists()
    assert not (made / "reports" / "table7.md").exists()


def test_another_subject_is_asked_of_the_expert_that_was_trained_before(tiny: Path, made: Path, tmp_path: Path) -> None:
    settings = json.loads(tiny.read_text())
    settings["study"]["transfer"] = ["arithmetic"]
    file = tmp_path / "transfer.yaml"
    file.write_text(json.dumps(settings))
    trained = sorted((made / "trainings").iterdir())
    found = study("table8", recipes=[str(file)], out=made, seeds=1, workers=1)
    assert sorted((made / "trainings").iterdir()) == trained
    (before,), (after,) = trained[0].glob("evaluate/*/*/*/verdicts*"), (made / "elsewhere").rglob("verdicts*")
    assert before.read_bytes() == after.read_bytes()
    assert "the method helps on another subject" in "\n".join(found["table8"]["lines"])


def test_wrong_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="no study table9: there are table1"):
        study("table9")
    with pytest.raises(ConfigError, match="no recipe"):
        study("table1", recipes=["nope"])


@pytest.mark.slow
def test_the_quick_form_of_all_studies(tiny: Path, tmp_path: Path) -> None:
    found = study("all", recipes=[str(tiny)], out=tmp_path, quick=True, workers=2, page_file=tmp_path / "page.md")
    assert found.keys() == GRIDS.keys()
    page_text = (tmp_path / "page.md").read_text()
    assert all(report["title"] in page_text for report in found.values())
    again = study("all", recipes=[str(tiny)], out=tmp_path, quick=True, workers=2)
    assert {name: report["lines"] for name, report in again.items()} == {
        name: report["lines"] for name, report in found.items()
    }
