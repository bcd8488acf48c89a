"""Statistics of labels by hand, and signs of bad questions, prompts and pairs."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lightreasoner.config import SampleConfig
from lightreasoner.report import markdown, report, write_page
from lightreasoner.samples.folder import PER_STEP, PER_TOP, Rollout
from lightreasoner.samples.sampling import sample
from lightreasoner.samples.statistics import (
    KlHistogram,
    SampleFigures,
    echoes,
    figures_of,
    is_scattered,
)
from lightreasoner.samples.warnings import sample_warnings

# The bundled expert and amateur: 16,068 steps of 1000 questions.
SOUND = SampleFigures(
    questions=1000, rollouts=1000, steps=16068, kept=7694, commonest=40, mean_kl=0.9, expert_entropy=0.36,
    amateur_entropy=1.09, advantage=0.9,
)  # fmt: skip


def test_signs_of_junk_by_hand() -> None:
    assert echoes(list(range(10)), [99, *range(1, 9), 99]) == 1
    assert echoes(list(range(10)), [99, *range(1, 8), 99]) is None
    assert is_scattered([0.1] * 10, 4.1)
    assert not is_scattered([0.1] * 10, 3.9)
    assert not is_scattered([0.9, 0.1], 9.0)


def test_bins_hold_their_lower_ends_and_rounding_below_zero() -> None:
    histogram = KlHistogram()
    histogram.add(np.array([-1e-4, 0.0, 0.1, 0.3, 0.7, 1.9999, 2.0, 2.2, 4.7, 4.8, 50.0, np.nan]))
    assert histogram.head[[0, 1, 3, 7, 19, 20]].tolist() == [2, 1, 1, 1, 1, 5]
    assert histogram.tail[[0, 1, 13, 14]].tolist() == [1, 1, 1, 2]
    assert histogram.total == 11


@pytest.mark.parametrize(
    "sound",
    [
        SOUND,
        replace(SOUND, kept=3214, mean_kl=0.4),  # the paper's share
        replace(SOUND, kept=10_605, mean_kl=1.34, expert_entropy=0.05, amateur_entropy=1.3),  # instruct and base
        replace(SOUND, kept=None),  # another rule than β
        replace(SOUND, duplicates=60, too_long=60, empty=40),
        SampleFigures(questions=1, rollouts=1, commonest=1),  # imported samples without figures
        SampleFigures(),
    ],
)
def test_usual_samples_give_no_warning(sound: SampleFigures) -> None:
    assert sample_warnings(sound) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"questions": 1, "duplicates": 999}, "999 of 1,000 rows repeat .* only 1 are used.*--question-field"),
        ({"too_long": 900}, "900 of 1,000 questions are left out.*--max-new-tokens"),
        ({"empty": 300}, "300 of 1,000 rollouts are empty"),
        ({"commonest": 980}, "980 of 1,000 rollouts are the same text"),
        ({"expert_entropy": 6.0, "amateur_entropy": 6.1}, "mean entropy is 6.0 nats, as of 403 equally likely"),
        ({"expert_entropy": 0.0}, "certain at every step"),
        ({"mean_kl": 6.5}, r"mean KL divergence is 6.5 nats \(usual: 0.3 to 1.5\)"),
        ({"kept": 12_051}, r"75 % of the steps are kept \(paper: 20 %.*raise --divergence-beta, with another --out"),
        (
            {"kept": 160},
            "1.0 % of the steps are kept .*as good as the expert or nearly.*lower --divergence-beta, with another",
        ),
        ({"advantage": -0.2}, r"likelier \(mean log-ratio -0.20\)"),
        ({"amateur_entropy": 0.3}, r"as certain .*\(mean entropy 0.30 and 0.36 nats\)"),
    ],
)
def test_each_sign_of_a_bad_start_gives_one_warning_that_says_what_to_do(changes: dict[str, int], says: str) -> None:
    (text,) = sample_warnings(replace(SOUND, **changes))
    assert re.search(says, text), text


def rollout(name: str, kl: list[float], *, finished: bool = True) -> Rollout:
    """Three steps: the models share both, one (of mass 0.75) and none of their two top tokens."""
    tops = [[[1, 2], [3, 4], [5, 6]], [[2, 1], [3, 7], [8, 9]]]
    masses = np.log([[0.75, 0.125], [0.75, 0.25], [0.5, 0.5]]).tolist()
    return Rollout(
        name, name, [1], [1, 3, 5], finished, kl, [0.5, 0.1, 0.0], [1.0, 1.1, 0.9], [-0.25, -0.5, -0.75],
        [-1.0, -1.0, -1.0], tops[0], masses, tops[1], masses,
    )  # fmt: skip


def test_figures_of_rollouts_by_hand() -> None:
    tables = [
        Rollout.table([rollout("a", [0.0, 0.05, 0.4]), rollout("b", [0.3, 1.0, 3.0], finished=False)]),
        Rollout.table([rollout("c", [0.09, 0.1, math.nan])]),
    ]
    found = figures_of(tables, 3)
    assert (found.rollouts, found.steps, found.finished, found.kept_share) == (3, 8, 2, 3 / 8)
    assert found.mean_kl == pytest.approx(4.94 / 8)
    assert found.agree == pytest.approx(1 / 3)
    assert found.overlap == pytest.approx((0.875 + 0.75 + 0) / 3)
    assert found.below_tenth == pytest.approx(3 / 8)
    assert found.above_beta == pytest.approx(3 / 8)
    assert found.advantage == pytest.approx(0.5)
    assert found.entropy_gap == pytest.approx(0.8 / 1.2)
    assert found.log_expert_entropy == pytest.approx(math.log(0.2))


def test_rollouts_without_scores_have_no_figures() -> None:
    unscored = replace(rollout("a", []), **{key: [] for key in (*PER_STEP, *PER_TOP)})
    found = figures_of([Rollout.table([unscored])], None)
    assert (found.rollouts, found.steps) == (1, 0)
    assert {found.agree, found.overlap, found.above_beta, found.below_tenth, found.mean_kl} == {None}


def sampled(out: Path, **settings: object) -> dict[str, object]:
    common = {"expert": "miniature/expert", "amateur": "miniature/base", "dataset": "arithmetic", "max_questions": 16}
    return sample(SampleConfig(**{**common, "max_new_tokens": 24, "dtype": "float32", **settings}, out=out))


def test_a_broken_amateur_is_named_by_sampling_report_and_summary(random_amateur: Path, tmp_path: Path) -> None:
    found = sampled(tmp_path, amateur=str(random_amateur))
    assert found["kept_steps"] / found["steps"] > 0.9
    (kl, kept) = found["warnings"]
    assert kl.startswith(f"the mean KL divergence is {found['mean_kl']:.1f} nats")
    assert re.match(r"(9\d|100) % of the steps are kept", kept)
    assert report(tmp_path).sample_warnings == (kl, kept)
    assert f"- warning: {kl}" in markdown(report(tmp_path))
    write_page(tmp_path)
    assert "the mean KL divergence is" in (tmp_path / "report.html").read_text()


def test_a_stronger_amateur_is_named(tmp_path: Path) -> None:
    assert any(
        "may be the better model" in text for text in sampled(tmp_path, amateur="miniature/instruct")["warnings"]
    )


def test_the_bundled_pair_gives_no_warning(tmp_path: Path) -> None:
    assert sampled(tmp_path)["warnings"] == []
    assert report(tmp_path).sample_warnings == ()


def test_equal_questions_are_named_before_and_after_sampling(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "Solve the problem.", "input": f"{number} + 1"} for number in range(1000)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = sampled(tmp_path / "run", dataset=str(tmp_path / "rows.jsonl"), max_questions=1000)
    (text,) = found["warnings"]
    assert "999 of 1,000 rows repeat the question of an earlier row, so only 1 are used" in text
    errors = capsys.readouterr().err
    assert errors.count(text) == 1
    assert errors.index(text) < errors.index("sampling")
