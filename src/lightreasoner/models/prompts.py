"""From a question to prompt token ids; the only module that applies a chat template.

All models and stages use one template, made from the expert's tokenizer, so they see identical ids. An amateur may be
given another one, with the same tokenizer; see `samples.contexts`.
"""

import re
import uuid
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from lightreasoner.config.sections import DEFAULT_CUE, PromptKind
from lightreasoner.data.benchmarks import Demonstration
from lightreasoner.errors import ConfigError, DataError
from lightreasoner.models.chat_templates import Conversation, render
from lightreasoner.models.pieces import Pieces
from lightreasoner.runs.progress import warn_once

# Eq 37, the paper's plain prompt for base models. No space at the end, because tokens begin with one.
PLAIN_TEMPLATE = "Question: {question}\nAnswer:"
DEMONSTRATION_GAP = "\n\n\n"  # between plain demonstrations; a chat has them in one turn, with one empty line between

# End-of-text marks that a model writes as text if its tokenizer has no such token (from the Qwen2.5-Math toolkit).
END_MARKS = ("</s>", "<|im_end|>", "<|endoftext|>")
MARK = uuid.uuid4().hex  # placeholder of a question; random, so no template contains it
PROBE = "A question\n\nof {{ 2 }} paragraphs: é, 三 & <b>?"
NEXT_QUESTION = "\n\nQuestion:"  # after its answer, a model that was asked in the plain form writes the next question


@dataclass(frozen=True)
class Stops:
    """What ends a response.

    Attributes:
        ids: stop tokens; they stay in the response.
        strings: texts; nothing from where one begins belongs to the answer.
    """

    ids: tuple[int, ...]
    strings: tuple[str, ...]

    def text_of(self, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
        """The text of a response without its stop token, which is text to some tokenizers, with digits in it too."""
        end = len(ids) - 1 if ids and ids[-1] in self.ids else len(ids)
        return str(tokenizer.decode(list(ids[:end]), skip_special_tokens=True))

    def start_in(self, text: str) -> int | None:
        """Where the first stop text begins; None if there is none. An empty line may hold spaces."""
        patterns = (re.escape(stop).replace("\\\n\\\n", r"\n\s*\n") for stop in self.strings)
        return min((found.start() for pattern in patterns if (found := re.search(pattern, text))), default=None)

    def answer_length(self, ids: list[int], tokenizer: PreTrainedTokenizerBase) -> int:
        """Number of tokens before the first one that begins at or behind the start of a stop text.

        A token that begins before it, such as a full stop with the two line breaks, belongs to the answer.
        """

        def text_of(length: int) -> str:
            return str(tokenizer.decode(ids[:length], skip_special_tokens=True))

        start = self.start_in(text_of(len(ids)))
        if start is None:
            return len(ids)
        return bisect_left(range(len(ids)), True, key=lambda length: len(text_of(length)) >= start)


def plain_form(question: str, demonstrations: Sequence[Demonstration] = ()) -> str:
    """The plain prompt, after its demonstrations."""
    solved = (f"{PLAIN_TEMPLATE.format(question=shown)} {answer}" for shown, answer in demonstrations)
    return DEMONSTRATION_GAP.join([*solved, PLAIN_TEMPLATE.format(question=question)])


def chat_turn(question: str, demonstrations: Sequence[Demonstration] = ()) -> str:
    """The user's turn of a chat: the question after its demonstrations."""
    return "\n\n".join([*(f"{shown}\n{answer}" for shown, answer in demonstrations), question])


class PromptTemplate:
    """The prompt format of one tokenizer.

    The cue is the system message. If the template does not support one (it raises, or drops the text), the cue precedes
    the question in the user's turn. A system message is always given, so templates with a default one (Qwen2.5,
    SmolLM2) do not insert it.

    Args:
        tokenizer: the expert's.
        cue: instruction before every question of a chat.
        chat_template: Jinja file that replaces the tokenizer's template.
        kind: `chat` (Eq 36; without a template the cue and the plain form), or `plain` (Eq 37: no cue, no template; for
            evaluation only).
        demonstrations: solved examples before every question.
        at: time that a template with a clock shows, ISO 8601; None is now.

    Attributes:
        before_answer: blanks that come between a prompt and an answer, such as the space behind Llama 2's `[/INST]`.

    Raises:
        ConfigError: the file cannot be read, or the template cannot render a question in time.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        cue: str = DEFAULT_CUE,
        chat_template: Path | None = None,
        *,
        kind: PromptKind = "chat",
        demonstrations: Sequence[Demonstration] = (),
        at: str | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.cue = cue
        self.kind = kind
        self._demonstrations = tuple(demonstrations)
        template = read_template(chat_template) if chat_template else _template_of(tokenizer)
        self._pieces = Pieces(tokenizer)
        self._around: tuple[str, str] | None = None  # text of a chat template before and after a question
        self.before_answer, self._after_answer = " ", ""
        self._dates: dict[str, str] = {}  # that the template wrote, by format
        if template and kind == "chat":
            self._probe(template, at or datetime.now().isoformat())

    def identity(self, stops: Stops) -> dict[str, Any]:
        """All that decides what a model is asked and where its response ends, in values that a person can read."""
        stop_tokens = [f"{self.tokenizer.convert_ids_to_tokens(id_)} ({id_})" for id_ in stops.ids]
        return {
            "prompt_text": self.render("{question}"),
            "prompt_tokens": [str(token) for token in self.tokenizer.convert_ids_to_tokens(self.encode("?"))],
            "behind_answer": self._after_answer,
            "dates": self._dates,
            "stop_tokens": stop_tokens,
            "stop_strings": list(stops.strings),
        }

    def render(self, question: str) -> str:
        """The prompt's text."""
        if self._around is None:
            plain = plain_form(question, self._demonstrations)
            return plain if self.kind == "plain" else f"{self.cue}\n\n{plain}".lstrip()
        return chat_turn(question, self._demonstrations).join(self._around)

    def encode(self, question: str) -> list[int]:
        """The prompt's token ids.

        A control token in the question (such as `<|im_end|>`) is encoded as plain characters, so a question cannot end
        its own turn.

        Raises:
            DataError: the tokenizer cannot encode the question without control tokens.
        """
        first, *others = self._pieces.cut(question)
        if not others:
            return self._opening_ids(self.render(question))
        inside = [id_ for piece in (first, *others) for id_ in self._pieces.following(piece)]
        if set(inside) & set(self.tokenizer.added_tokens_decoder):
            raise DataError(
                f"question {question[:60]!r} contains a control token, which this tokenizer cannot encode as text; "
                "remove the question"
            )
        before, after = self.render(MARK).split(MARK)
        end = self._pieces.control_at(after)
        others[-1] += after[:end]
        text = [id_ for piece in others for id_ in self._pieces.following(piece)]
        return [*self._opening_ids(before + first), *text, *self._pieces.ids(after[end:])]

    def stops(self, generation_config: GenerationConfig | None, more: Sequence[str] = ()) -> Stops:
        """What ends a response: see `stop_ids` and `stop_strings`; `more` are the user's own texts."""
        return Stops(self.stop_ids(generation_config), tuple(dict.fromkeys([*self.stop_strings, *more])))

    def stop_ids(self, generation_config: GenerationConfig | None) -> tuple[int, ...]:
        """Tokens that end a response: the model's EOS, the tokenizer's EOS, and the template's end of turn.

        The end of turn matters for base models: Qwen2.5 base has only `<|endoftext|>` as EOS, and would continue after
        the `<|im_end|>` of its chat template.
        """
        stops = {self.tokenizer.eos_token_id, self._end_of_turn()}
        if self._around is None:  # without a template, the end of turn is unknown
            added = self.tokenizer.added_tokens_decoder.items()
            stops.update(id_ for id_, token in added if token.content in END_MARKS)
        configured = generation_config.eos_token_id if generation_config else None
        stops.update(configured if isinstance(configured, list) else [configured])
        return tuple(sorted(stop for stop in stops if stop is not None))

    def _end_of_turn(self) -> int | None:
        """The control token of the template directly after an assistant's answer."""
        following = self._pieces.ids(self._after_answer.lstrip())
        return following[0] if following and following[0] in self.tokenizer.added_tokens_decoder else None

    def encode_answer(self, text: str) -> list[int]:
        """Token ids of a given answer as the model should write it behind a prompt, with the end of its turn.

        `before_answer` is part of it. A control token in the text is encoded as plain characters.
        """
        first, *others = self._pieces.cut(self._behind_prompt(text))
        inside = self._pieces.behind(self.render("?"), first)
        inside += [id_ for piece in others for id_ in self._pieces.following(piece)]
        end = self.answer_end()
        return inside if end is None else [*inside, end]

    def encode_prefix(self, text: str) -> list[int]:
        """Token ids of the beginning of a response, from its decoded text; a control token in it stays one.

        A tokenizer that puts a space before texts drops it when it decodes, so `before_answer` is put back.
        """
        if not text or not self._pieces.adds_space:
            return self._pieces.ids(text)
        return self._pieces.behind(self.render("?"), self._behind_prompt(text))

    def _behind_prompt(self, text: str) -> str:
        """A response's text with the blanks that the template writes before it."""
        return text if text.startswith(self.before_answer) else self.before_answer + text

    def answer_end(self) -> int | None:
        """The token that ends an answer: the template's end of turn, or the tokenizer's EOS; None without either."""
        end = self._end_of_turn()
        eos: int | None = self.tokenizer.eos_token_id
        return eos if end is None else end

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Texts that end a response, beside its stop tokens: end marks, and in the plain form the next question."""
        marks = tuple(mark for mark in END_MARKS if mark not in self._pieces.controls)
        return marks if self._around else (*marks, NEXT_QUESTION)

    def _probe(self, template: str, at: str) -> None:
        """Render marked questions to find the template's text around a question and after an answer."""

        def messages(cue: str, question: str, *, in_system: bool) -> list[dict[str, str]]:
            if in_system:
                return [{"role": "system", "content": cue}, {"role": "user", "content": question}]
            return [{"role": "user", "content": f"{cue}\n\n{question}".lstrip()}]

        answer = {"role": "assistant", "content": MARK}
        conversations = [Conversation(messages(MARK, "?", in_system=True))]
        for in_system in (True, False):
            conversations += [
                Conversation(messages(self.cue, MARK, in_system=in_system)),
                Conversation(messages(self.cue, PROBE, in_system=in_system)),
                Conversation([*messages(self.cue, "?", in_system=in_system), answer], open_turn=False),
                Conversation(messages(self.cue, MARK, in_system=in_system), open_turn=False),
            ]
        accepts_system, *rendered = render(template, conversations, self.tokenizer.special_tokens_map, at)
        marked, probed, answered, closed = rendered[:4] if MARK in accepts_system.text else rendered[4:]
        if marked.error is not None:
            raise ConfigError(f"the chat template cannot render a question: {marked.error}")
        if (found := marked.text.count(MARK)) != 1:
            raise ConfigError(f"the chat template writes the question {found} times; it must write it once. Change it")
        before, after = marked.text.split(MARK)
        if probed.text != before + PROBE + after:
            raise ConfigError("the chat template changes the question; it must copy it. Change the template")
        self._around, self._dates = (before, after), marked.dates
        opening, _, self._after_answer = answered.text.rpartition(MARK)  # all empty where it has an error
        blanks = opening.removeprefix("?".join(self._around))
        self.before_answer = "" if blanks.strip() else blanks
        if blanks.strip() and blanks != opening and closed.text == marked.text:
            warn_once(
                f"the chat template writes {blanks!r} before an answer, but not at the end of a prompt: it ignores "
                "add_generation_prompt, so the model has to begin its own turn. Change the template, or give one with "
                "--chat-template"
            )

    def _opening_ids(self, text: str) -> list[int]:
        """Ids of the beginning of a prompt.

        A chat template writes its own BOS; the plain form takes the tokenizer's, and no EOS, which would end the text.
        """
        return self._pieces.ids(text) if self._around else opening_ids(self.tokenizer, text)


def opening_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a text that goes on: with the tokenizer's BOS, if it adds one, and without its EOS."""
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    opened = list(tokenizer(text)["input_ids"])
    starts = (start for start in range(len(opened)) if opened[start : start + len(ids)] == ids)
    return opened[: next(starts, len(opened)) + len(ids)]


def _template_of(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The tokenizer's chat template; of several, the one that is named `default`."""
    if not tokenizer.chat_template:
        return None
    try:
        return str(tokenizer.get_chat_template())
    except ValueError:
        names = ", ".join(tokenizer.chat_template)
        raise ConfigError(
            f"the tokenizer has several chat templates ({names}) and none is named default. Give one with "
            "--chat-template"
        ) from None


def read_template(path: Path) -> str:
    """A chat template from a file; raises `ConfigError` if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read chat template {path}: {error}") from None
