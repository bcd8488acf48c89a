"""Tables of made-up groups, with numbers calculated by hand."""

from pathlib import Path

import pytest

from lightreasoner.studies import grids, tables
from lightreasoner.studies.jobs import Themes
from lightreasoner.studies.outcomes import Group
from tests.studies.harness import scope_of


class MadeUp(Group):
    """A setting whose counts and times are given."""

    def __init__(self, accuracies: list[float], counts: dict[str, float], seconds: dict[str, float]) -> None:
        super().__init__([])
        items = 100
        self.__dict__["scores"] = [
            {"a": {f"{place}": float(place < round(items * accuracy)) for place in range(items)}}
            for accuracy in accuracies
        ]
        self.jobs = [Themes(root=Path("root"), themes=(), count=0, seed=seed) for seed in range(len(accuracies))]
        self.counts, self.times = counts, seconds

    def count(self, stage: str, name: str) -> float:
        return self.counts[f"{stage}.{name}"]

    def seconds(self, *names: str) -> float:
        return sum(self.times.get(name, 0.0) for name in names)


def made_up(*accuracies: float, **counts: float) -> Group:
    given = {name.replace("__", "."): value for name, value in counts.items()}
    return MadeUp(list(accuracies), given, {"sample": 10.0, "select": 5.0, "finetune": counts.get("seconds", 0.0)})


def test_the_efficiency_table_divides_the_cost_of_the_method_by_that_of_sft() -> None:
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
    sft, method, _ = report.rows
    assert (sft["time (s)"], sft["problems"], sft["answers kept"], sft["tuned tokens"]) == (200, 5000, 1000, 200_000)
    assert (method["time (s)"], method["problems"], method["tuned tokens"]) == (50, 1000, 6400)
    assert sft["gain (95 %)"].value == pytest.approx(10)
    assert method["gain (95 %)"].value == pytest.approx(30)
    assert [claim.evidence for claim in report.claims[:-1]] == [
        "25, at most 25", "20, at most 20", "3.2, at most 5", "25.5, at most 25", "21, at most 20", "6, at most 5",
    ]  # fmt: skip
    assert [claim.verdict for claim in report.claims] == ["holds"] * 3 + ["does not hold"] * 3 + ["holds"]


def test_the_ablations_are_compared_in_the_papers_order() -> None:
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
    rows = {row["setting"]: row for row in report.rows}
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
    rows = report.rows
    assert [row["gap"] for row in rows] == pytest.approx([40, 30, 20, 10, 0, -10])
    assert rows[0]["AVG after"] == pytest.approx(70)
    assert "Spearman's ρ = 1.00" in report.claims[0].evidence
    assert report.claims[0].verdict == "holds"
    assert report.claims[-1].text.endswith(pairings[-1][2])
    assert report.claims[-1].verdict == "not decided" if rows[-1]["gain (95 %)"].high > 0 else "holds"


def test_the_baselines_are_ranked_with_what_each_used(monkeypatch: pytest.MonkeyPatch) -> None:
    scope = scope_of("miniature")
    plan = grids.baselines(scope, 2)
    groups: dict[str, Group] = {}
    for place, (name, jobs) in enumerate(plan.items()):
        accuracy = 0.9 if name == grids.METHOD else 0.2 + 0.01 * place
        group = made_up(
            accuracy, accuracy + 0.01, sample__tokens=1000.0 + place, sample__steps=7.0, finetune__labels_trained=64
        )
        group.jobs = jobs if len(jobs) == 2 else [*jobs, *jobs]
        groups[name] = group
    choices = [{"temperature": t, "accuracies": {"0": 0.5, "0.6": 0.7}} for t in (0.0, 0.6)]
    monkeypatch.setattr(groups[grids.TUNED], "result", lambda stage: choices)
    report = tables.baselines(scope, groups)
    assert report.rows[0]["setting"] == grids.METHOD
    assert [row["AVG"] for row in report.rows] == sorted((row["AVG"] for row in report.rows), reverse=True)
    rows = {row["setting"]: row for row in report.rows}
    with_gold = {name for name, row in rows.items() if row["gold answers"]}
    assert with_gold == {grids.TUNED, "rejection SFT", "rejection SFT, one epoch"}
    assert rows[grids.METHOD]["tokens generated"] == 7
    assert rows["majority vote"]["tokens generated"] == 1000 + list(plan).index("majority vote")
    assert rows["base"]["labels trained"] is None
    assert {row["labels trained"] for row in rows.values()} == {None, 64}
    assert len(report.claims) == 23
    verdicts = {claim.text: claim.verdict for claim in report.claims}
    assert verdicts["the method is better than majority vote"] == "holds"
    assert any("0, 0.6 by seed (mean accuracy there: 50.0 at 0, 70.0 at 0.6)" in note for note in report.notes)
    assert len(report.data) == 12
