"""What each side reads before a response: one prompt for both, or a context of its own for a side.

The response is the same on both sides: the same ids, or the same text where the amateur has another tokenizer, with
prompts of its own template then (`models.alignment`). A hint is a field of the problem's row that one side reads:

    <question>

    Hint: <the field's text>

in the user's turn (in the plain form in front of "Answer:"). The labels of an expert with a hint are trained on its
prompt without the hint, so that the tuned model needs none: a model distilled into itself out of a context, as in
arXiv 2209.15189; a teacher that reads more than the student, as in OPSD, arXiv 2601.18734 (not checked at its source).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from lightreasoner.config import InspectConfig, RunConfig, SampleConfig
from lightreasoner.data.problems import ProblemSet
from lightreasoner.errors import ConfigError
from lightreasoner.models.alignment import Alignment
from lightreasoner.models.pairs import FoundPair
from lightreasoner.models.prompts import PromptTemplate
from lightreasoner.models.sides import ANOTHER_MODEL
from lightreasoner.runs.records import Problem
from lightreasoner.samples.responses import Prompted

HINTED = "{question}\n\nHint: {hint}"
BOTH_READ = ("prompt_text", "prompt_tokens", "behind_answer", "dates")  # of `PromptTemplate.identity`
Hints = Mapping[str, str]  # by the problem's id


@dataclass(frozen=True)
class Contexts:
    """The prompts of both sides.

    Attributes:
        expert: the expert's template.
        amateur: the amateur's; the same object where it has no settings of its own.
        expert_hints: what the expert reads below each question; None without hints.
        amateur_hints: what the amateur reads there.
        alignment: how the amateur reads the expert's responses; None where it reads the same ids.
    """

    expert: PromptTemplate
    amateur: PromptTemplate
    expert_hints: Hints | None = None
    amateur_hints: Hints | None = None
    alignment: Alignment | None = None

    @classmethod
    def of(
        cls,
        config: SampleConfig | RunConfig | InspectConfig,
        tokenizer: PreTrainedTokenizerBase,
        of_amateur: PreTrainedTokenizerBase,
        at: str | None = None,
        problems: ProblemSet | None = None,
    ) -> "Contexts":
        """The prompts that these settings ask for.

        Args:
            config: cues, templates and the fields of hints.
            tokenizer: the expert's.
            of_amateur: the amateur's, which makes its prompts if the vocabularies are aligned.
            at: see `PromptTemplate`.
            problems: the problems with their hints, if the settings name fields of them.

        Raises:
            ConfigError: see `PromptTemplate`.
            VocabularyMismatch: see `Alignment`.
        """
        expert = amateur = PromptTemplate(tokenizer, config.cue, config.chat_template, at=at)
        alignment, cue = None, config.cue if config.amateur_cue is None else config.amateur_cue
        if config.vocabulary == "aligned":
            amateur = PromptTemplate(of_amateur, cue, config.amateur_template, at=at)
            alignment = Alignment(expert, amateur)
        elif config.amateur_cue is not None or config.amateur_template is not None:
            amateur = PromptTemplate(tokenizer, cue, config.amateur_template or config.chat_template, at=at)
        fields = [getattr(config, f"{side}_hint", None) for side in ("expert", "amateur")]
        hints = [problems.hints[field] if field is not None and problems else None for field in fields]
        return cls(expert, amateur, hints[0], hints[1], alignment)

    def prompted(self, problem: Problem) -> Prompted:
        """The problem with the prompts of both sides."""
        plain = self.expert.encode(problem.question)
        read = plain
        if self.expert_hints is not None:
            read = self.expert.encode(_hinted(problem, self.expert_hints))
        if self.amateur is self.expert and self.expert_hints is self.amateur_hints:
            return Prompted(problem, read, trained_ids=None if read is plain else plain)
        other = self.amateur.encode(_hinted(problem, self.amateur_hints))
        return Prompted(problem, read, other, None if read is plain else plain)

    def facts(self, problems: Sequence[Problem]) -> dict[str, Any]:
        """What decides the prompts beside the expert's template: fields of `samples.folder.Sampled`."""
        first = problems[0]
        texts = {
            "expert": self.expert.render(_hinted(first, self.expert_hints)),
            "amateur": self.amateur.render(_hinted(first, self.amateur_hints)),
        }
        other = self.amateur if self.amateur is not self.expert or self.amateur_hints != self.expert_hints else None
        return {
            "expert_context": _context(self.expert, self.expert_hints, problems)
            if self.expert_hints is not None
            else None,
            "amateur_context": other and _context(other, self.amateur_hints, problems),
            "example": {"question": first.question, **texts} if other else None,
        }


def refuse_same_prompts(found: FoundPair, prompted: Sequence[Prompted]) -> None:
    """Refuse the expert, or a copy of it, as its own amateur where both read the same before every response.

    Raises:
        ConfigError: they do.
    """
    is_self = found.amateur == found.expert and found.side.kind in ("self", "checkpoint")
    if not is_self and not _is_copy(found):
        return
    if all(item.amateur_ids in (None, item.prompt_ids) for item in prompted):
        raise ConfigError(
            f"--amateur {found.config.amateur}: expert and amateur are the same model and read the same prompts, so "
            f"both predict the same and nothing could be learnt. Give {'' if is_self else 'a weaker model, or '}"
            "another --amateur-cue, --amateur-template or hint"
        )


def _is_copy(found: FoundPair) -> bool:
    """Whether the amateur is another model by name, and the expert by its files."""
    expert, amateur = found.expert, found.amateur
    is_bare = found.side == ANOTHER_MODEL and expert.adapter is None and amateur.adapter is None
    return is_bare and expert.files() == amateur.files()


def _hinted(problem: Problem, hints: Hints | None) -> str:
    return problem.question if hints is None else HINTED.format(question=problem.question, hint=hints[problem.id])


def _context(template: PromptTemplate, hints: Hints | None, problems: Sequence[Problem]) -> dict[str, Any]:
    """What a side reads, in values that a person can read, and a hash of its hints."""
    identity = template.identity(template.stops(None))
    context = {name: identity[name] for name in BOTH_READ}
    if hints is None:
        return context
    context["prompt_text"] = template.render(HINTED.format(question="{question}", hint="{hint}"))
    texts = json.dumps([hints[problem.id] for problem in problems])
    return {**context, "hints_sha256": hashlib.sha256(texts.encode()).hexdigest()}
