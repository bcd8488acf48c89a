"""`lightr inspect`: sample one response and colour each token by the KL divergence between expert and amateur."""

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from lightreasoner.config import InspectConfig, SampleConfig
from lightreasoner.data.problems import make_problem
from lightreasoner.errors import DataError
from lightreasoner.models.loading import load_generation_config
from lightreasoner.models.pairs import find_pair
from lightreasoner.models.sides import amateur_words
from lightreasoner.report.browser import BlockWriter
from lightreasoner.report.charts import KL_CLASSES, kl_class
from lightreasoner.report.page import write_inspection
from lightreasoner.report.tokens import TokenTexts, visible
from lightreasoner.runs.locks import one_thread
from lightreasoner.samples.contexts import Contexts, refuse_same_prompts
from lightreasoner.samples.folder import Label, ScoredRollout, scored_rollouts
from lightreasoner.samples.sampler import Sampler
from lightreasoner.samples.sampling import refuse_if_none_fits
from lightreasoner.samples.statistics import AlignedShares

# Style of each KL class, in the colours of the report; legible on dark and light terminals.
PALE = ("#f5f9d8", "#e3f3b4", "#bfe5b5", "#7fcdbb", "#45b4c2", "#4aa0cf")
STYLES = ("", *(f"#11130f on {colour}" for colour in PALE), "#ffffff on #225ea8", "#ffffff on #0c2c84")

UNALIGNED = "strike"  # style of a step that the amateur cannot score


@one_thread
def inspect(config: InspectConfig, console: Console | None = None, *, show: bool = True) -> dict[str, Any]:
    """Sample one response, score it with both models, and show it.

    Args:
        config: pair, question and sampling settings.
        console: console for the heat map, which is printed if `config.html` is None; by default the terminal.
        show: print the heat map.

    Returns:
        Counts of steps and kept steps, mean KL in nats, and the `file` if one was written.

    Raises:
        LightReasonerError: see `errors`.
    """
    rollout, texts, shares = _live(config)
    scored = rollout.kl[~rollout.unaligned]
    facts: dict[str, Any] = {
        "steps": len(scored),
        "kept_steps": len(rollout.labels),
        "mean_kl": round(float(np.mean(scored)), 6) if len(scored) else None,
        **(shares.rounded() if shares else {}),
    }
    if config.html is not None:
        _write(config, config.html, rollout, texts)
        return {**facts, "file": str(config.html)}
    if show:
        console = console or Console(highlight=False)
        _show(config, rollout, texts, console)
        if shares is not None:
            console.print(Text(f"\n{shares}."))
    return facts


def _live(config: InspectConfig) -> tuple[ScoredRollout, TokenTexts, AlignedShares | None]:
    """Sample and score the response to the question; with how much of it an amateur of another tokenizer scores."""
    found = find_pair(config, config.adapter)
    tokenizer, of_amateur = found.tokenizers()
    contexts = Contexts.of(config, tokenizer, of_amateur)
    template = contexts.expert
    stops = template.stops(load_generation_config(found.expert), config.stop_strings)
    prompted = contexts.prompted(make_problem(config.question))
    refuse_same_prompts(found, [prompted])
    settings = config.model_dump(include=set(SampleConfig.model_fields))
    pair = found.load(contexts.alignment)
    refuse_if_none_fits([prompted.longest], pair.context_length, config.max_new_tokens)
    sampler = Sampler.of(pair, template, stops, SampleConfig(**settings, dataset="-", out=Path("-")))
    (shard,) = sampler.run([prompted])
    shares = AlignedShares.of(sampler.commit([prompted], [shard]).counts)
    (scored,) = scored_rollouts(shard)
    if not len(scored.kl):
        raise DataError(
            f"the response is empty: the expert begins with a text that ends it ({', '.join(map(repr, stops.strings))})"
            ", so there is no step to show. Check the chat template and --stop-strings"
        )
    return scored, TokenTexts(getattr(tokenizer, "backend_tokenizer", None)), shares


def _write(config: InspectConfig, file: Path, rollout: ScoredRollout, texts: TokenTexts) -> None:
    with tempfile.TemporaryFile() as blocks:
        writer = BlockWriter(blocks, texts, config.plausibility_alpha, limit=1)
        writer.add(rollout)
        writer.finish({"alpha": config.plausibility_alpha})
        blocks.seek(0)
        facts = {
            "question": visible(config.question),
            "expert": config.expert,
            "amateur": amateur_words(config.amateur),
            "beta": config.divergence_beta,
        }
        with file.open("wb") as page:
            write_inspection(page, facts, blocks)


def _show(config: InspectConfig, rollout: ScoredRollout, texts: TokenTexts, console: Console) -> None:
    """Print the heat map and the kept steps. Model output is never read as markup; control characters are escaped."""
    console.print(Text(visible(config.question), style="bold"))
    console.print()
    response = Text()
    for position, (index, kl) in enumerate(zip(rollout.response_ids.tolist(), rollout.kl.tolist(), strict=True)):
        style = STYLES[kl_class(kl)] if math.isfinite(kl) else UNALIGNED if rollout.unaligned[position] else ""
        kept = "underline bold" if position in rollout.labels else ""
        response.append(texts.token(index).text, style=f"{style} {kept}".strip())
    console.print(response)
    console.print()
    legend = Text("KL in nats: ")
    for start, end, style in zip((0.0, *KL_CLASSES), (*KL_CLASSES, math.inf), STYLES, strict=True):
        legend.append(f" {start:g}–{end:g} " if end < math.inf else f" {start:g} and more ", style=style)
    if rollout.unaligned.any():
        legend.append(" not scored: inside a token of the amateur ", style=UNALIGNED)
    console.print(legend)
    beta = "every step is" if config.divergence_beta is None else f"steps above β = {config.divergence_beta:g} are"
    console.print(Text(f"Underlined: {beta} kept, {len(rollout.labels)} of {len(rollout.kl)} here.\n"))
    for position, step in sorted(rollout.labels.items()):
        console.print(Text(f"{position:>4}  KL {rollout.kl[position]:6.3f}  {_label(step, texts)}"))


def _label(step: Label, texts: TokenTexts) -> str:
    """A label in one line: weight, expert and amateur probability of each token, in %."""
    order = sorted(range(len(step.token_ids)), key=lambda place: -step.weights[place])
    return "   ".join(
        f"{texts.token(step.token_ids[place]).text!r} {100 * step.weights[place]:.1f} % "
        f"(expert {100 * math.exp(step.expert_logprobs[place]):.1f}, "
        f"amateur {100 * math.exp(step.amateur_logprobs[place]):.1f})"
        for place in order
    )
