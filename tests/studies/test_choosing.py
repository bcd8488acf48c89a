"""Studies that choose settings and judge the stop rule: what they compare, and on which problems."""

import json
from pathlib import Path
from typing import Any, cast

import pytest

from lightreasoner.config import RoundsSettings, RunConfig
from lightreasoner.miniature.word_problems import THEMES
from lightreasoner.recipes import load_recipe
from lightreasoner.studies import choosing, jobs
from lightreasoner.studies.grids import Scope
from lightreasoner.studies.outcomes import Group
from lightreasoner.studies.stopping import kept_round, mean_over_seeds, rounds, stopping

SETTINGS = 72 + 10


@pytest.fixture
def scope(tmp_path: Path) -> Scope:
    return Scope.of([RunConfig.checked(load_recipe("miniature"))], tmp_path, None, False)


def test_the_problems_that_judge_chose_nothing() -> None:
    assert set(choosing.CHOOSING).isdisjoint(choosing.JUDGING)
    assert {*choosing.CHOOSING, *choosing.JUDGING} == set(THEMES)


def test_every_setting_is_a_training_of_its_own(scope: Scope) -> None:
    plan = choosing.choose(scope, 2)
    assert len(plan) == 1 + SETTINGS
    folders = [job.folder for jobs in plan.values() for job in jobs]
    assert len(set(folders)) == len(folders)  # no two settings are the same training


def test_judging_has_seeds_of_its_own(scope: Scope) -> None:
    plan = choosing.judge(scope, 2)
    seeds = {cast("Any", job).recipe.seed for name in ("recipe", *choosing.CHOSEN) for job in plan[name]}
    assert seeds == {100, 101}
    amateurs = {name: {cast("Any", job).recipe.amateur for job in plan[name]} for name in choosing.CHOSEN}
    assert sum(names == {scope.main.amateur} for names in amateurs.values()) == 2
    assert all(names == {scope.main.amateur} or str(names).startswith("{'self") for names in amateurs.values())


def test_the_recipes_of_own_amateurs_are_valid(scope: Scope) -> None:
    for recipe, _ in choosing.own_amateurs(scope).values():
        assert RunConfig.checked(recipe.model_dump()) == recipe


def group(*accuracies: float) -> Group:
    made = Group([cast("Any", None)] * len(accuracies))
    made.__dict__["scores"] = [
        {**{kind: {"a": value} for kind in choosing.CHOOSING}, **{kind: {"a": 1.0} for kind in choosing.JUDGING}}
        for value in accuracies
    ]
    return made


def test_ranking_reads_the_kinds_that_choose() -> None:
    groups = {"base": group(0.9), "low": group(0.1, 0.3), "high": group(0.5, 0.7)}
    assert choosing.ranking(groups) == [(pytest.approx(60.0), "high"), (pytest.approx(20.0), "low")]


def alarms(share: float, **changes: float) -> dict[str, Any]:
    calm = {"finished": 1.0, "repeated": 0.0, "format_mass": 0.0, "junk_mass": 0.0, **changes}
    answers = {name: ["1", "1"] for name in "abc"}
    shares = {"a": share, "b": share + 0.01, "c": share - 0.01}
    return {**calm, "per_prompt": {"majority_share": shares, "answers": answers}}


@pytest.mark.parametrize(
    ("series", "kept"),
    [
        ([alarms(0.3), alarms(0.5), alarms(0.7)], 2),
        ([alarms(0.3), alarms(0.5), alarms(0.4)], 1),
        ([alarms(0.3), alarms(0.2), alarms(0.9)], 0),  # the rule ends before the third is made
        ([alarms(0.3), alarms(0.5), {"failure": "no step is left"}], 1),
        ([alarms(0.3), alarms(0.9, finished=0.5)], 0),
    ],
)
def test_the_kept_round_is_that_of_a_loop_which_the_rule_ends(series: list[dict[str, Any]], kept: int) -> None:
    assert kept_round(series, RoundsSettings(limit=4)) == kept


def test_the_interval_over_seeds_is_students() -> None:
    assert mean_over_seeds([1.0, 2.0, 3.0]) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4)
    assert mean_over_seeds([0.5, 0.5]) == (0.5, 0.5)
    assert str(mean_over_seeds([1.0])) == "(nan, nan)"


def alarms(*shares: float) -> list[dict[str, Any]]:
    """Series in which only the majority's share changes, on ten prompts."""
    guards = {"finished": 1.0, "repeated": 0.0, "format_mass": 0.0, "junk_mass": 0.0}
    answers = {str(n): ["1", "1"] for n in range(10)}
    return [
        guards | {"per_prompt": {"majority_share": dict.fromkeys(answers, share), "answers": answers}}
        for share in shares
    ]


def test_the_report_of_the_stop_rule_counts_lost_points(scope: Scope) -> None:
    seeded = rounds(scope, 3)["miniature/expert"]
    assert [cast("Any", job).config.seed for job in seeded] == [16, 17, 18]
    found = [  # kept and best: 1, 1; 0, 1; 0, 0
        {"series": alarms(0.5, 0.6, 0.6, 0.6), "accuracies": [0.2, 0.4, 0.3, 0.3]},
        {"series": alarms(0.5, 0.5, 0.6, 0.6), "accuracies": [0.2, 0.23, 0.1, 0.1]},
        {"series": alarms(0.5, 0.4, 0.6, 0.6), "accuracies": [0.2, 0.1, 0.1, 0.1]},
    ]
    made = Group(seeded)
    made.__dict__["result"] = lambda stage: found
    report = stopping(scope, {"miniature/expert": made})
    assert [(row["kept"], row["best"]) for row in report.rows] == [(1, 1), (0, 1), (0, 0)]
    assert [row["below the best"] for row in report.rows] == pytest.approx([0, 3, 0])
    assert [row["against round 0"] for row in report.rows] == pytest.approx([20, 0, 0])
    worse, costs = report.claims
    assert (worse.verdict, worse.evidence) == ("does not hold", "0.333, at most 0.05")
    # Mean 6.67, standard deviation 11.55: ± 28.7 points.
    assert (costs.verdict, costs.evidence) == ("does not hold", "+6.7 points, -22.0 to +35.4; 3 seeds")
    made = Group(seeded[:1])
    made.__dict__["result"] = lambda stage: found[:1]
    (one,) = stopping(scope, {"miniature/expert": made}).claims[1:]
    assert (one.verdict, one.evidence) == ("not decided", "+20.0 points, one seed")


def test_rounds_after_the_end_of_the_rule_have_an_accuracy_but_no_alarms(
    scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, other = rounds(scope, 2)["miniature/expert"]
    assert isinstance(job, jobs.Rounds)
    assert job.needs() == other.needs() == [job.untouched], "one evaluation for all seeds"
    series, made = alarms(0.5, 0.6, 0.6), []
    monkeypatch.setattr(jobs, "measure", lambda config, number: series[number])
    monkeypatch.setattr(jobs, "trained", lambda config, number: made.append(number))
    monkeypatch.setattr(jobs, "evaluate", lambda config: {"arithmetic": {"accuracy": 0.1 * len(made)}})
    job.untouched.folder.mkdir(parents=True)
    untouched = {"results": {"evaluate": {"arithmetic": {"accuracy": 0.2}}}, "seconds": {}}
    (job.untouched.folder / "done.json").write_text(json.dumps(untouched))
    job.folder.mkdir(parents=True)
    result = job.make()["rounds"]
    assert result["accuracies"] == pytest.approx([0.2, 0.1, 0.2, 0.3])
    assert result["series"] == series, "round 2 ended it, and round 3 was not measured"
    assert kept_round(result["series"], job.config.rounds) == 1


def test_settings_of_a_study_name_known_fields(scope: Scope) -> None:
    for changes in choosing.settings(scope).values():
        for section, values in changes.items():
            assert set(values) <= set(type(getattr(scope.main, section)).model_fields)
