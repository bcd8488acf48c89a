"""From a question to prompt token ids: the only place where a chat template is applied.

One template, made from the expert's tokenizer, serves every model and every stage, so that all of them see
identical ids.
"""

import hashlib
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from transformers import GenerationConfig, PreTrainedTokenizerBase

from lightreasoner.config import DEFAULT_CUE, PromptKind
from lightreasoner.demonstrations import Demonstration
from lightreasoner.errors import ConfigError, DataError

__all__ = ["DEFAULT_CUE", "PLAIN_TEMPLATE", "PromptTemplate"]

# Eq 37, the plain form in which the paper asks base models. It ends without a space: tokens begin with one.
PLAIN_TEMPLATE = "Question: {question}\nAnswer:"
DEMONSTRATION_GAP = "\n\n\n"  # between plain demonstrations; in a chat they stand in one turn, two lines apart

# End-of-text marks that models spell out where their tokenizer has no such token (those of the Qwen2.5-Math toolkit).
END_MARKS = ("</s>", "<|im_end|>", "<|endoftext|>")
NEXT_QUESTION = "\n\nQuestion:"  # a base model that has answered a plain question goes on to ask the next one


class PromptTemplate:
    """How one tokenizer asks a question.

    The cue goes into a system message. Where the template has no place for one (it raises, or drops the text), the
    cue stands before the question in the user's turn. Since a system message is always given, templates that put
    in a default of their own (Qwen2.5, SmolLM2) have nothing to put in.

    Args:
        tokenizer: the expert's.
        cue: instruction before every question of a chat.
        chat_template: Jinja file to use instead of the tokenizer's template.
        kind: `chat` (Eq 36; without any template the plain form under the cue), or `plain` (Eq 37: no cue, no
            template), which evaluation knows beside it.
        demonstrations: solved examples before every question.

    Raises:
        ConfigError: the file cannot be read, or the template cannot render a question.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        cue: str = DEFAULT_CUE,
        chat_template: Path | None = None,
        *,
        kind: PromptKind = "chat",
        demonstrations: Sequence[Demonstration] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.cue = cue
        self.kind = kind
        self._demonstrations = tuple(demonstrations)
        template = _read(chat_template) if chat_template else tokenizer.chat_template
        self._jinja = template if kind == "chat" else None
        self._cue_in_system = self._jinja is not None and self._accepts_system_message()
        if self._jinja is not None:
            self._check_renders()
        self._control_tokens = tuple(token.content for token in tokenizer.added_tokens_decoder.values())

    @property
    def fingerprint(self) -> str:
        """Hash of everything that shapes the prompt beside the question."""
        return hashlib.sha256(self.render("\x00").encode()).hexdigest()

    def render(self, question: str) -> str:
        """The prompt's text."""
        if self._jinja is None:
            solved = (f"{PLAIN_TEMPLATE.format(question=asked)} {answer}" for asked, answer in self._demonstrations)
            asked = DEMONSTRATION_GAP.join([*solved, PLAIN_TEMPLATE.format(question=question)])
            return asked if self.kind == "plain" else f"{self.cue}\n\n{asked}".lstrip()
        return self._render_chat(self._messages(question))

    def encode(self, question: str) -> list[int]:
        """The prompt's token ids.

        A control token that a question spells out (such as `<|im_end|>`) is encoded as the plain characters it
        is made of: a question cannot end its own turn.

        Raises:
            DataError: the tokenizer cannot encode such a question without control tokens.
        """
        # A chat template writes its own BOS; the plain form leaves that to the tokenizer.
        add_special_tokens = self._jinja is None
        if not any(token in question for token in self._control_tokens):
            return self._ids(self.render(question), add_special_tokens=add_special_tokens)
        mark = uuid.uuid4().hex
        before, after = self.render(mark).split(mark)
        inside = self._ids(question, add_special_tokens=False, split_special_tokens=True)
        if set(inside) & set(self.tokenizer.added_tokens_decoder):
            raise DataError(
                f"question {question[:60]!r} spells out a control token, which this tokenizer cannot encode as text"
            )
        return (
            self._ids(before, add_special_tokens=add_special_tokens)
            + inside
            + self._ids(after, add_special_tokens=False)
        )

    def stop_ids(self, generation_config: GenerationConfig | None) -> tuple[int, ...]:
        """Tokens that end a response: the model's own, the tokenizer's EOS, and the template's end of turn.

        The last one matters for base models: Qwen2.5 base knows only `<|endoftext|>` as EOS, and would run on past
        the `<|im_end|>` that its chat template ends a turn with.
        """
        stops = {self.tokenizer.eos_token_id, self._end_of_turn()}
        if self.kind == "plain":  # without a template nothing says which token ends a turn
            stops.update(
                id_ for id_, token in self.tokenizer.added_tokens_decoder.items() if token.content in END_MARKS
            )
        configured = generation_config.eos_token_id if generation_config else None
        stops.update(configured if isinstance(configured, list) else [configured])
        return tuple(sorted(stop for stop in stops if stop is not None))

    def _end_of_turn(self) -> int | None:
        """The control token that the template writes right after an assistant's answer."""
        if self._jinja is None:
            return None
        mark = uuid.uuid4().hex
        try:
            text = self._render_chat([*self._messages("?"), {"role": "assistant", "content": mark}], prompt=False)
        except jinja2.TemplateError:
            return None
        following = self._ids(text.rpartition(mark)[2].lstrip(), add_special_tokens=False)
        return following[0] if following and following[0] in self.tokenizer.added_tokens_decoder else None

    def encode_answer(self, text: str) -> list[int]:
        """Token ids of an answer that somebody wrote, as the model should have given it: with the end of its turn.

        A control token that the text spells out is encoded as plain characters where the tokenizer can do so.
        """
        inside = self._ids(text if self._jinja else f" {text}", add_special_tokens=False, split_special_tokens=True)
        end = self._end_of_turn()
        end = self.tokenizer.eos_token_id if end is None else end
        return inside if end is None else [*inside, end]

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Texts that end a response where no stop token does."""
        marks = tuple(mark for mark in END_MARKS if mark not in self._control_tokens)
        return marks if self.kind == "chat" else (*marks, NEXT_QUESTION)

    def _messages(self, question: str) -> list[dict[str, str]]:
        question = "\n\n".join([*(f"{asked}\n{answer}" for asked, answer in self._demonstrations), question])
        if self._cue_in_system:
            return [{"role": "system", "content": self.cue}, {"role": "user", "content": question}]
        return [{"role": "user", "content": f"{self.cue}\n\n{question}".lstrip()}]

    def _accepts_system_message(self) -> bool:
        mark = uuid.uuid4().hex
        messages = [{"role": "system", "content": mark}, {"role": "user", "content": "?"}]
        try:
            return mark in self._render_chat(messages)
        except jinja2.TemplateError:
            return False

    def _check_renders(self) -> None:
        mark = uuid.uuid4().hex
        try:
            found = self.render(mark).count(mark)
        except jinja2.TemplateError as error:
            raise ConfigError(f"the chat template cannot render a question: {error}") from None
        if found != 1:
            raise ConfigError(f"the chat template writes the question {found} times; it must write it once")

    def _render_chat(self, messages: list[dict[str, str]], *, prompt: bool = True) -> str:
        text: Any = self.tokenizer.apply_chat_template(
            messages, chat_template=self._jinja, tokenize=False, add_generation_prompt=prompt
        )
        return str(text)

    def _ids(self, text: str, **options: bool) -> list[int]:
        return list(self.tokenizer(text, **options)["input_ids"])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read chat template {path}: {error}") from None
