"""The grids: jobs that studies share, and one plan for every study and recipe."""

import pytest

from lightreasoner.recipes import recipe_names
from lightreasoner.studies import grids
from lightreasoner.studies.job import Job
from lightreasoner.studies.jobs import Evaluation, Samples, Training
from lightreasoner.studies.study import STUDIES
from tests.studies.harness import jobs_of, scope_of


def test_studies_share_jobs() -> None:
    scope = scope_of()
    full = jobs_of({"full": scope.method(scope.main, 1)})
    for name in ("table1", "table4", "table5", "table6", "table7", "selection", "sweeps", "figure4", "figure8"):
        assert full.keys() <= jobs_of(STUDIES[name].plan(scope)).keys(), name
    assert jobs_of(STUDIES["figure2"].plan(scope)).keys() <= full.keys()


def test_selections_of_one_seed_share_one_sampling() -> None:
    plan = STUDIES["selection"].plan(scope_of())
    samples = [job for job in jobs_of(plan).values() if isinstance(job, Samples)]
    trainings = [job for job in jobs_of(plan).values() if isinstance(job, Training)]
    assert len(samples) == 1
    assert len(trainings) == 1 + len(grids.RULES)
    assert samples[0].config.divergence_beta is None


def test_the_base_has_both_kinds_of_prompt_and_trained_models_one() -> None:
    plan = STUDIES["table1"].plan(scope_of("qwen2.5-math-1.5b"))

    def prompts(job: Job) -> str:
        if isinstance(job, Training):
            return job.recipe.evaluate.prompts
        assert isinstance(job, Evaluation)
        return job.config.prompts

    found = {name: {prompts(job) for job in jobs} for name, jobs in plan.items()}
    expert = "Qwen/Qwen2.5-Math-1.5B"
    assert found == {f"{expert} base": {"both"}, f"{expert} SFT": {"chat"}, f"{expert} LightReasoner": {"chat"}}


def test_all_seeds_share_greedy_rollouts_of_given_problems() -> None:
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
    for name, study in STUDIES.items():
        jobs = jobs_of(study.plan(scope)).values()
        assert jobs, name
        for job in jobs:
            assert all(need.wave < job.wave for need in job.needs())
            if isinstance(job, Training) and job.select and job.select.plausibility_alpha:
                assert isinstance(job.data, Samples)
                assert job.select.plausibility_alpha >= job.data.config.plausibility_alpha


def test_the_miniature_expert_has_weaker_and_stronger_amateurs() -> None:
    plan = STUDIES["table5"].plan(scope_of())
    pairs = [name for name in plan if name.startswith("miniature/expert × ")]
    assert len(pairs) == 6
    assert "miniature/expert × miniature/instruct" in pairs
