"""Signs of bad questions, prompts and pairs: by figures, and in the commands that give them."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from lightreasoner.config import SampleConfig
from lightreasoner.report import markdown, report, write_page
from lightreasoner.samples.sampling import sample
from lightreasoner.samples.statistics import SampleFigures
from lightreasoner.samples.warnings import sample_warnings

# The bundled expert and amateur: 16,068 steps of 1000 questions.
SOUND = SampleFigures(
    questions=1000, rollouts=1000, steps=16068, kept=7694, commonest=40, mean_kl=0.9, expert_entropy=0.36,
    amateur_entropy=1.09, advantage=0.9,
)  # fmt: skip


@pytest.mark.parametrize(
    "sound",
    [
        SOUND,
        replace(SOUND, kept=3214, mean_kl=0.4),  # the paper's share
        replace(SOUND, kept=10_605, mean_kl=1.34, expert_entropy=0.05, amateur_entropy=1.3),  # instruct and base
        replace(SOUND, kept=None),  # another rule than β
        replace(SOUND, duplicates=60, too_long=60, empty=40),
        replace(SOUND, parameters=10**6),
        # Those of a pair that lost, of an expert of another size and of other settings.
        replace(SOUND, expert_entropy=0.08, amateur_entropy=0.11, parameters=7 * 10**9),
        replace(SOUND, expert_entropy=0.08, amateur_entropy=0.11, parameters=10**6, unlike="other labels"),
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
        (
            {"expert_entropy": 0.08, "amateur_entropy": 0.11, "parameters": 10**6},
            r"pairs with such figures lost accuracy: -\d+ ± \d+ points and a chance of \d+ % to gain.*Choose another",
        ),
        ({"alpha": 0.0}, "plausibility_alpha = 0 makes every token .* Give 0.05 to 0.2"),
        ({"amateur_entropy": 0.3}, r"as certain .*\(mean entropy 0.30 and 0.36 nats\)"),
    ],
)
def test_each_sign_of_a_bad_start_gives_one_warning_that_says_what_to_do(changes: dict[str, int], says: str) -> None:
    (text,) = sample_warnings(replace(SOUND, **changes))
    assert re.search(says, text), text


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
