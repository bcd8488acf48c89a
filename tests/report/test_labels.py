"""Statistics of the labels, and signs of junk."""

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from lightreasoner.report import markdown, report, write_page
from lightreasoner.report.tokens import find_texts
from lightreasoner.samples.format_tokens import token_kind

from ..fake_runs import fake_rollout, write_samples
from .helpers import rows_of


def test_label_statistics_are_those_of_the_rows(small_run: Path) -> None:
    rollouts, steps = rows_of(small_run)
    labels = report(small_run).labels
    assert labels is not None
    kl = np.array([value for row in rollouts for value in row.kl])
    agrees = np.array(
        [
            ours[0] == theirs[0]
            for row in rollouts
            for ours, theirs in zip(row.expert_top_ids, row.amateur_top_ids, strict=True)
        ]
    )
    kept = np.array([(row.question_id, at) in steps for row in rollouts for at in range(len(row.kl))])
    assert (labels.rollouts, labels.steps, labels.kept) == (len(rollouts), len(kl), len(steps))
    assert labels.finished == sum(row.finished for row in rollouts)
    assert labels.below_tenth == pytest.approx((kl < 0.1).mean())
    assert labels.above_beta == pytest.approx((kl > 0.4).mean()) == pytest.approx(kept.mean())
    assert labels.mean_kl_agree == pytest.approx(kl[agrees].mean())
    assert labels.mean_kl_disagree == pytest.approx(kl[~agrees].mean())
    assert labels.agree == pytest.approx(agrees.mean())
    assert labels.agree_above_beta == pytest.approx(kept[agrees].mean())
    assert labels.single_token == pytest.approx(np.mean([len(step.token_ids) == 1 for step in steps.values()]))
    assert labels.mean_support == pytest.approx(np.mean([len(step.token_ids) for step in steps.values()]))
    entropies = [-sum(w * math.log(w) for w in step.weights if w) for step in steps.values()]
    assert labels.mean_entropy == pytest.approx(np.mean(entropies), abs=1e-6)
    for place in range(20):
        inside = (kl >= place / 10) & (kl < (place + 1) / 10)
        assert labels.histogram[place] == pytest.approx((inside | ((kl < 0) & (place == 0))).mean())
    assert labels.histogram[20] == pytest.approx((kl >= 2).mean())
    inside = [((kl >= 2 + place / 5 - 1e-9) & (kl < 2.2 + place / 5 - 1e-9)).mean() for place in range(14)]
    assert labels.tail == pytest.approx([*inside, (kl >= 4.8).mean()])
    assert sum(labels.tail) == pytest.approx(labels.histogram[-1])
    assert labels.highest_kl == pytest.approx(kl.max())
    assert labels.kept_at[0] == pytest.approx(np.mean([(row.question_id, 0) in steps for row in rollouts]))
    assert sum(labels.supports) == len(steps)


def test_kinds_of_token_share_responses_kept_steps_and_label_mass(small_run: Path) -> None:
    rollouts, steps = rows_of(small_run)
    texts = find_texts([("miniature/expert", None)])

    def kind(token: int) -> str:
        found = texts.token(token)
        return token_kind(found.text, found.control)

    responses = Counter(kind(token) for row in rollouts for token in row.response_ids)
    by_id = {row.question_id: row for row in rollouts}
    kept = Counter(kind(by_id[question].response_ids[position]) for question, position in steps)
    mass: Counter[str] = Counter()
    for step in steps.values():
        for token, weight in zip(step.token_ids, step.weights, strict=True):
            mass[kind(token)] += weight
    labels = report(small_run).labels
    assert labels is not None
    assert len(responses) >= 3
    for one in labels.kinds:
        assert one.responses == pytest.approx(responses[one.kind] / responses.total())
        assert one.kept == (pytest.approx(kept[one.kind] / count) if (count := responses[one.kind]) else None)
        assert one.labels == pytest.approx(kept[one.kind] / len(steps))
        assert one.mass == pytest.approx(mass[one.kind] / sum(mass.values()))
    assert labels.format_labels == pytest.approx(mass["format"] / sum(mass.values()))
    assert re.search(r"^\| number +\|", markdown(report(small_run)), re.M)


def test_promoted_and_demoted_tokens_add_up_label_minus_expert(small_run: Path) -> None:
    rollouts, steps = rows_of(small_run)
    texts = find_texts([("miniature/expert", None)])
    mass: dict[str, float] = {}
    by_id = {row.question_id: row for row in rollouts}
    for (question, position), step in steps.items():
        row = by_id[question]
        expert = dict(zip(row.expert_top_ids[position], row.expert_top_logprobs[position], strict=True))
        expert |= dict(zip(step.token_ids, step.expert_logprobs, strict=True))
        label = dict(zip(step.token_ids, step.weights, strict=True))
        for token, logprob in expert.items():
            moved = label.get(token, 0) - math.exp(logprob)
            if moved > 0:
                mass[texts.token(token).text] = mass.get(texts.token(token).text, 0) + moved
    labels = report(small_run).labels
    assert labels is not None
    best = sorted(mass.values(), reverse=True)[: len(labels.promoted)]
    assert [token.mass for token in labels.promoted] == pytest.approx(best, rel=1e-4)
    assert all(token.mass < 0 for token in labels.demoted)


def test_junk_labels_are_found_with_their_places(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    head = list(range(100, 112))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    answers = [[50, 51, 52, 53], [60, *head[2:11], 61], [50, end, 52, 53], [50, 51, 52, end]]
    rows: list[Any] = []
    for number, response in enumerate(answers):
        rollout, steps = fake_rollout(number, f"Question {number}?", response, 600, rng)
        rows.append((rollout, steps))
        object.__setattr__(rollout, "prompt_ids", [*head, 200 + number])
    rollout, steps = rows[0]
    step = steps[0] if steps else None
    assert step is not None
    rollout.kl[step.position] = 6.285
    for name, values in (("token_ids", list(range(20))), ("weights", [0.05] * 20)):
        object.__setattr__(step, name, values)
    for name in ("expert_logprobs", "amateur_logprobs"):
        object.__setattr__(step, name, [-3.0] * 20)
    write_samples(tmp_path, rows, tokenizer)
    warnings = {warning.kind: warning for warning in report(tmp_path).labels.warnings}
    places = {kind: [(place.rollout, place.position) for place in one.places] for kind, one in warnings.items()}
    assert places == {"scattered": [(0, step.position)], "echo": [(1, 1)], "past_end": [(2, 1)]}
    assert all(warning.count == 1 for warning in warnings.values())
    write_page(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert f'href="#r-0-{step.position}"' in page
    assert 'href="#r-1-1"' in page
