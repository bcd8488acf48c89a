"""`lightr advise`: judge a pair of models from a few prompts, before a run. Trains nothing.

Samples the prompts as `lightr sample` does, with every step in them, and selects labels as the run would. All figures
come from `samples.statistics`, the cost from `plan`, the predicted gain from `samples.calibration`, and the warnings
from `samples.warnings`.

The suggested β keeps the paper's share of the steps. The suggested α is the largest for which at least half of the
labels have more than one token, since others teach the expert what it does already. Both are rules of thumb: no
experiment here shows that they are best.

The gradient alignment score of arXiv 2605.10889 is not among the figures. It compares the gradient of the labels with
one that raises the probability of a right answer, and so needs right answers, which this method does not have.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from lightreasoner import contrast
from lightreasoner.config import AdviseConfig, RunConfig, SampleConfig, SelectConfig
from lightreasoner.config.sections import SELECTION
from lightreasoner.errors import DataError, ModelError
from lightreasoner.models.loading import load_tokenizer
from lightreasoner.models.source import find_model
from lightreasoner.plan import check_flops, plan
from lightreasoner.runs.progress import without_messages
from lightreasoner.runs.stage import StageFolder
from lightreasoner.runs.terminal import duration, size
from lightreasoner.samples.calibration import OTHER_LABELS, Prediction, Sign, read_calibration, unlike_measured
from lightreasoner.samples.folder import Floats, Ragged, read_samples
from lightreasoner.samples.sampling import format_share, read_problems, sample
from lightreasoner.samples.selecting import rule_of, select
from lightreasoner.samples.statistics import (
    HEAD_BINS,
    JUDGED,
    PAPER_BELOW_TENTH,
    PAPER_KEPT,
    AlignedShares,
    SampleFigures,
    figures_of,
)
from lightreasoner.samples.warnings import sample_warnings

POOL_ALPHA = 0.05  # of the samples: labels of a larger α are selected from them
ALPHAS = (0.2, 0.1, POOL_ALPHA)  # that are compared
LOWEST_KEPT, HIGHEST_KEPT = 0.1, 0.7  # shares of the steps between which the run's β stays
SMALLEST_BETA = 0.01  # nats; models that differ less have little to teach
NOTHING_KEPT = "no step is kept, so there is nothing to train on"
VERDICTS: Mapping[Sign, str] = {
    "gain": "LightReasoner is likely to help",
    "loss": "LightReasoner is likely to harm",
    "not decided": "LightReasoner may help or harm",
}
SHARES = (0.1, PAPER_KEPT, 0.5)  # of the steps, for which β is listed


@dataclass(frozen=True)
class _Labels:
    """The labels of the prompts, as the run would select them. Shares are 0 … 1; None without labels."""

    count: int
    share: float
    surprise: float | None
    single_token: float | None
    of_format: float | None
    of_format_in_responses: float | None


def advise(config: AdviseConfig, *, flops: float | None = None) -> dict[str, Any]:
    """Say whether LightReasoner is likely to help for a pair, from a few prompts and without training.

    Args:
        flops: sustained floating-point operations per second of another machine that would run it, see `lightr plan`.
            Default: this machine is measured.

    Returns:
        `prompts`, `figures` of both models, `labels`, `suggested` settings, `cost`, the `gain` and `warnings`.

    Raises:
        LightReasonerError: see `errors`; samples in a given folder stay, and the same call continues.
    """
    check_flops(flops)
    with _folder(config.out) as folder:
        run = config.for_run(folder)
        if run.selects:
            rule_of(run.for_select())
        questions = len(read_problems(run.for_sample()).problems)
        prompts = min(config.prompts, questions)
        sampled = sample(_asked(run, prompts))
        stage = read_samples(folder)[1]
        labels, problems = _labels(run, stage, prompts / questions)
        figures = replace(
            figures_of(stage.tables("rollouts", JUDGED), labels.count if run.rule.threshold is not None else None),
            duplicates=sampled["duplicate_questions"],
            too_long=sampled["too_long_questions"],
            format_labels=labels.of_format,
            format_responses=labels.of_format_in_responses,
            aligned=AlignedShares.of_result(sampled),
            parameters=sampled["expert_parameters"],
            unlike=_unlike(run),
            alpha=run.rule.plausibility_alpha,
        )
        cost, unplanned = _cost(run, stage, flops)
        estimated = round(labels.share * figures.steps / figures.rollouts * questions)
        trained = run.finetune.steps * run.finetune.labels_per_step
        return {
            "expert": run.expert,
            "amateur": run.amateur,
            "dataset": run.dataset,
            "prompts": figures.rollouts,
            "figures": _rounded(figures),
            "labels": {
                "kept_share": round(labels.share, 3),
                "estimated": estimated,
                "questions": questions,
                "passes": round(trained / estimated, 1) if estimated else None,
                "surprise": _round(labels.surprise),
                "single_token": _round(labels.single_token),
                "format": _round(labels.of_format),
                "format_in_responses": _round(labels.of_format_in_responses),
            },
            "suggested": _suggested(run, stage),
            "cost": cost,
            "gain": _gain(figures, labels.count),
            "warnings": [*sample_warnings(figures), *problems, *unplanned],
        }


@contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="lightr-advise-") as folder:
        yield Path(folder)


def _asked(run: RunConfig, prompts: int) -> SampleConfig:
    """The samples to judge: a few problems of the run, every step."""
    changes = {"divergence_beta": None, "plausibility_alpha": _pool_alpha(run), "max_questions": prompts}
    return run.for_sample().model_copy(update=changes)


def _unlike(run: RunConfig) -> str | None:
    """Why the run is unlike the measured ones; None if it is like them."""
    if run.finetune.objective == "entropy":
        return "the objective is the entropy, and the labels in the measured pairs"
    return OTHER_LABELS if run.selects else unlike_measured(run.for_sample())


def _pool_alpha(run: RunConfig) -> float:
    """α of the samples. At 0, every step would hold the whole vocabulary."""
    alpha = run.rule.plausibility_alpha or POOL_ALPHA
    return min(alpha, POOL_ALPHA)


def _labels(run: RunConfig, stage: StageFolder, share: float) -> tuple[_Labels, list[str]]:
    """Labels by the run's rule, and what is wrong with them.

    Args:
        run: the run.
        stage: its samples.
        share: of the run's problems that were sampled.
    """
    rule = run.rule
    changes: dict[str, Any] = {"plausibility_alpha": max(rule.plausibility_alpha or 0.0, _pool_alpha(run))}
    if rule.keep_labels is not None:
        changes["keep_labels"] = max(1, round(rule.keep_labels * share))
    settings = rule.model_dump() | changes
    warned = []
    if rule.plausibility_alpha == 0:
        warned.append(
            f"the labels described here are those of plausibility_alpha = {changes['plausibility_alpha']:g}, not of 0"
        )
    try:
        with without_messages():  # they name a folder that is temporary
            kept = select(SelectConfig(**settings, source=run.out, out=run.out, seed=run.seed))
    except DataError as error:
        failed = str(error).replace(str(stage.path), "the samples")
        return _Labels(0, 0.0, None, None, None, None), [*warned, failed]
    selected = read_samples(run.out / SELECTION)[1]
    counted = format_share(stage, selected, load_tokenizer(find_model(run.expert, run.expert_revision), run))
    surprises, sizes = [], []
    for table in selected.tables("steps", ["weights", "expert_logprobs"]):
        weights, logprobs = (Ragged.of(table[name]) for name in ("weights", "expert_logprobs"))
        padded = (torch.from_numpy(column.padded(fill)) for column, fill in ((weights, 0.0), (logprobs, -np.inf)))
        surprises.append(contrast.label_kl(*padded))
        sizes.append(weights.lengths)
    found = _Labels(
        kept["kept_steps"],
        kept["kept_steps"] / kept["steps"],
        float(torch.cat(surprises).mean()),
        float((np.concatenate(sizes) == 1).mean()),
        counted.of_labels,
        counted.of_responses,
    )
    return found, warned


def _suggested(run: RunConfig, stage: StageFolder) -> dict[str, Any]:
    """β by the share of the steps that it keeps, and α by the labels of more than one token."""
    kls: Floats = np.concatenate(
        [Ragged.of(table["kl"]).values.astype(np.float64) for table in stage.tables("rollouts", ["kl"])]
    )
    kls = kls[np.isfinite(kls)]
    given = run.rule.threshold if run.rule.selection == "divergence" else None
    share = None if given is None else float((kls > given).mean())
    beta_of = {f"{kept:g}": max(0.0, round(float(np.quantile(kls, 1 - kept)), 3)) for kept in SHARES}
    stays = share is not None and LOWEST_KEPT <= share <= HIGHEST_KEPT
    beta = given if stays else beta_of[f"{PAPER_KEPT:g}"]
    if beta is None or beta < SMALLEST_BETA:
        return {
            "divergence_beta": None,
            "plausibility_alpha": None,
            "kept_share": None,
            "beta_by_kept_share": beta_of,
            "several_tokens_by_alpha": {},
        }
    pairs = [(alpha, _several(stage, alpha, kls_above=beta)) for alpha in ALPHAS]
    alphas = {f"{alpha:g}": None if several is None else round(several, 3) for alpha, several in pairs}
    enough = [alpha for alpha, several in pairs if several is not None and several >= 0.5]
    return {
        "divergence_beta": beta,
        "plausibility_alpha": enough[0] if enough else ALPHAS[-1],
        "kept_share": _round(float((kls > beta).mean())),
        "beta_by_kept_share": beta_of,
        "several_tokens_by_alpha": alphas,
    }


def _several(stage: StageFolder, alpha: float, kls_above: float) -> float | None:
    """Share of the labels with more than one token under α, of steps with a larger KL; None without any."""
    several = total = 0
    for rollouts, steps in zip(
        stage.tables("rollouts", ["question_id", "kl"]),
        stage.tables("steps", ["question_id", "position", "expert_logprobs"]),
        strict=True,
    ):
        logprobs = Ragged.of(steps["expert_logprobs"]).padded(-np.inf)
        sizes = (logprobs >= logprobs.max(1, keepdims=True) + np.log(alpha)).sum(1)
        kept = _kl_at(rollouts, steps) > kls_above
        several, total = several + int((sizes[kept] > 1).sum()), total + int(kept.sum())
    return several / total if total else None


def _kl_at(rollouts: pa.Table, steps: pa.Table) -> Floats:
    """KL of each label's step."""
    kls = Ragged.of(rollouts["kl"])
    row_of = {question: row for row, question in enumerate(rollouts["question_id"].to_pylist())}
    rows = np.array([row_of[question] for question in steps["question_id"].to_pylist()], np.int64)
    found: Floats = kls.values[kls.starts[rows] + np.asarray(steps["position"], np.int64)].astype(np.float64)
    return found


def _cost(run: RunConfig, stage: StageFolder, flops: float | None) -> tuple[dict[str, Any] | None, list[str]]:
    """Time and memory of the run, by `plan` with the mean length of these prompts; and the plan's warnings."""
    lengths = [Ragged.of(table["prompt_ids"]).lengths for table in stage.tables("rollouts", ["prompt_ids"])]
    try:
        found = plan(run, flops=flops, prompt_tokens=round(float(np.concatenate(lengths).mean())))
    except ModelError as error:  # an architecture that `plan` does not know
        return None, [str(error)]
    seconds = {name: part["seconds"] for name, part in found["stages"].items()} | {"all": found["seconds"]}
    device = found["assumptions"]["device"]
    cost = {"seconds": seconds, "memory": found["memory"]["peak"], "batch": stage.batch_size, "device": device}
    return cost, found["warnings"]


def _gain(figures: SampleFigures, labels: int) -> dict[str, Any]:
    """The predicted gain, and how far such predictions were right."""
    calibration = read_calibration()
    predicted = calibration.predict(figures) if labels else Prediction(None, None, None, NOTHING_KEPT)
    return {
        "sign": predicted.sign,
        "points": predicted.gain,
        "error": predicted.error,
        "chance": _round(predicted.chance),
        "why_unknown": predicted.why_unknown,
        "measured_pairs": len(calibration.pairs),
        "measured": calibration.measured,
        "left_out": calibration.left_out.model_dump() if calibration.left_out else None,
    }


def _rounded(figures: SampleFigures) -> dict[str, Any]:
    """The figures of both models, with the KL histogram beside the paper's shape."""
    names = ("mean_kl", "expert_entropy", "amateur_entropy", "advantage", "agree", "overlap", "above_beta")
    shares = {str(place): _round(share) for place, share in zip(HEAD_BINS, figures.histogram, strict=False)}
    return {
        **{name: _round(getattr(figures, name)) for name in (*names, "below_tenth")},
        "steps": figures.steps,
        "finished": _round(figures.finished / figures.rollouts),
        "kl_histogram": shares,
    }


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def advice_lines(result: Mapping[str, Any]) -> list[str]:
    """The advice as lines for people."""
    figures, labels, suggested = (result[name] for name in ("figures", "labels", "suggested"))
    kept = ", ".join(
        f"{100 * float(share):.0f} % at β {beta:g}" for share, beta in suggested["beta_by_kept_share"].items()
    )
    above, below = (_percent(figures[name]) for name in ("above_beta", "below_tenth"))
    paper = _percent(PAPER_KEPT), _percent(PAPER_BELOW_TENTH)
    lines = [
        f"{result['expert']} and {result['amateur']}: {_count(result['prompts'], 'prompt')} of {result['dataset']}, "
        f"{figures['steps']:,} steps",
        *_gain_lines(result["gain"]),
        f"KL divergence: {above} of the steps above 0.4 nats (paper: {paper[0]}), {below} below 0.1 (paper: "
        f"{paper[1]}), mean {figures['mean_kl']:.2f}",
        f"agreement: same top token at {_percent(figures['agree'])} of the steps; "
        f"{_percent(figures['overlap'])} of the expert's mass on top tokens of both",
        f"entropy: expert {figures['expert_entropy']:.2f} nats, amateur {figures['amateur_entropy']:.2f}; the expert's "
        f"tokens have {figures['advantage']:+.2f} nats more log-probability under it",
        f"rollouts that end: {_percent(figures['finished'])}",
        f"labels: {_percent(labels['kept_share'])} of the steps, about {labels['estimated']:,} of "
        f"{_count(labels['questions'], 'problem')}"
        + ("" if labels["passes"] is None else f", each trained on {labels['passes']:g} times"),
        *_label_lines(labels),
        _suggestion(suggested, kept),
        *_cost_lines(result["cost"]),
    ]
    return [*lines, *(f"warning: {text}" for text in result["warnings"])]


def _label_lines(labels: Mapping[str, Any]) -> list[str]:
    if labels["surprise"] is None:
        return []
    return [
        f"label surprise D_KL(v_C‖π_E): mean {labels['surprise']:.2f} nats; {_percent(labels['single_token'])} of the "
        "labels have one token",
        f"label mass on format tokens: {_percent(labels['format'])}; {_percent(labels['format_in_responses'])} of the "
        "responses",
    ]


def _suggestion(suggested: Mapping[str, Any], kept: str) -> str:
    beta = suggested["divergence_beta"]
    if beta is None:
        return (
            f"suggested: another amateur, since the KL divergence is below {SMALLEST_BETA:g} nats at "
            f"{_percent(1 - PAPER_KEPT)} of the steps"
        )
    share, alpha = _percent(suggested["kept_share"]), suggested["plausibility_alpha"]
    return f"suggested: β {beta:g} (keeps {share}; {kept}), α {alpha:g}"


def _cost_lines(cost: Mapping[str, Any] | None) -> list[str]:
    if cost is None:
        return []
    stages = ", ".join(f"{name} {duration(seconds)}" for name, seconds in cost["seconds"].items() if name != "all")
    return [
        f"cost of the run: {duration(cost['seconds']['all'])} on {cost['device']} ({stages}), memory "
        f"{size(cost['memory'])}; batches of {_count(cost['batch'], 'problem')}"
    ]


def _gain_lines(gain: Mapping[str, Any]) -> list[str]:
    found, points = gain["left_out"], ""
    if gain["points"] is not None:
        points = f"{gain['points']:+.0f} ± {gain['error']:.0f} points, chance of a gain {_percent(gain['chance'])}"
    if gain["sign"] == "unknown":
        similar = f". Measured pairs with such figures: {points}" if points else ""
        lines = [f"unknown whether LightReasoner helps: {gain['why_unknown']}{similar}"]
    else:
        lines = [f"{VERDICTS[gain['sign']]}: {points}"]
    if found is None:
        return lines
    return [
        *lines,
        f"calibration: {gain['measured_pairs']} pairs ({gain['measured']}). Each predicted from the others: "
        f"{found['said_right']} of {found['said']} verdicts right, sign of the points right in {found['right_signs']} "
        f"of {found['decided']} decided pairs, rank correlation {found['rank_correlation']:.2f}, 9 of 10 errors up to "
        f"{found['error']:.0f} points",
    ]


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"
