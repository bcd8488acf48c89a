"""The study of pairs: its grid, and its report on pairs that were measured."""

import json
from dataclasses import replace
from pathlib import Path

from lightreasoner.samples.calibration import FEWEST_PAIRS, Calibration, read_calibration
from lightreasoner.studies.calibrating import PAIRS, _report, pairs
from lightreasoner.studies.jobs import Training
from lightreasoner.studies.study import STUDIES
from tests.studies.harness import jobs_of, scope_of


def test_every_pair_is_trained_once_a_seed_and_mixtures_are_made_first() -> None:
    scope = replace(scope_of(), quick=False)
    assert len(PAIRS) == len(set(PAIRS)) >= 20
    assert all(expert != amateur for expert, amateur in PAIRS)
    plan = STUDIES["calibration"].plan(scope)
    trainings = [job for job in jobs_of(plan).values() if isinstance(job, Training)]
    assert len({(job.recipe.expert, job.recipe.amateur) for job in trainings}) == len(PAIRS)
    assert {(expert, amateur) for _, expert, amateur in pairs(scope)} == set(PAIRS)
    assert len(pairs(replace(scope, quick=True))) == FEWEST_PAIRS


def test_another_recipe_brings_its_own_pairs() -> None:
    scope = scope_of("qwen2.5-math-1.5b")
    main = scope.main
    found = [(recipe.expert, recipe.amateur) for recipe, _, _ in pairs(scope)]
    assert found == [(main.expert, amateur) for amateur in (main.amateur, *main.study.amateurs)]


def test_the_report_of_the_shipped_pairs_writes_the_shipped_file_again(tmp_path: Path) -> None:
    shipped = read_calibration()
    scope = replace(scope_of(), root=tmp_path)
    made = _report(scope, shipped.measured, shipped.pairs)
    written = Calibration.model_validate(json.loads((tmp_path / "calibration.json").read_text()))
    assert written == shipped
    assert len(made.rows) == len(shipped.pairs) >= FEWEST_PAIRS
    assert [(pair.expert, pair.amateur) for pair in shipped.pairs] == list(PAIRS)
    (claim,) = made.claims
    assert shipped.left_out is not None
    assert claim.evidence.startswith(f"{shipped.left_out.right_signs} of {shipped.left_out.decided};")
