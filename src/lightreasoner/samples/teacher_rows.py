"""Stored top-k log-probabilities of a teacher, from files for DistillKit or axolotl, as labels.

The label of a position is the teacher's distribution over its stored tokens, renormalised, as in both these trainers.

Which token entry i is about, i or the next, differs between the tools that write such files, and their readers do not
ask. It is decided by the data: of a teacher's k most probable tokens, one is mostly the one in the text.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from lightreasoner.config.sections import TeacherFormat
from lightreasoner.data.fields import last_turn, named, turns_of
from lightreasoner.data.lines import Row, short
from lightreasoner.data.problems import make_problem
from lightreasoner.errors import SampleFormatError
from lightreasoner.models.chat_templates import Conversation, render
from lightreasoner.models.pieces import Pieces
from lightreasoner.models.vocabulary import tokens_by_id
from lightreasoner.runs.environment import now
from lightreasoner.runs.progress import say, warn
from lightreasoner.samples.distillkit import Legacy, Quantised, unpack
from lightreasoner.samples.folder import PER_STEP, PER_TOP, Label, Rollout

AT_ONCE = 32  # rows to render chats of together, and to decide the alignment by
SMALLEST = 1e-30  # probability of a token that is left out: it stands in for none
FEW_HITS = 0.5
LOGPROBS_FIELDS = ("logprobs", "llm_text_generation_vllm_logprobs")
CHAT_FIELDS = ("messages", "messages_combined", "conversations")


@dataclass
class TeacherText:
    """A text, and a teacher's log-probabilities along it.

    Attributes:
        where: file and row.
        ids: token ids of prompt and response, [L].
        tokens: token ids of each entry, [T][k].
        logprobs: their log-probabilities, [T][k].
        kept: entries to learn from, [T]; None: all.
        by_token: `kept` is about the tokens of `ids`, and not about the entries.
        start: tokens of the prompt, where the row says so.
        question: text of the last question, where the row says so.
    """

    where: str
    ids: list[int]
    tokens: Sequence[Any]
    logprobs: Sequence[Any]
    kept: NDArray[np.bool_] | None = None
    by_token: bool = False
    start: int | None = None
    question: str | None = None

    def shifts(self) -> dict[str, int]:
        """Index in `ids` of the token that entry 0 is about, in each way of writing such files."""
        own = len(self.ids) - len(self.tokens)
        found = {"next": own + (own == 0), "own": own}
        return found | ({} if self.start is None else {"next": own + 1, "response": self.start})

    def is_kept(self, entry: int, place: int) -> bool:
        """Whether to learn from this entry, which is about the token at this place of `ids`."""
        if self.kept is None:
            return True
        return bool(self.kept[place if self.by_token else entry])

    def hits(self, shift: int) -> tuple[int, int]:
        """How many of the entries hold the token that they would be about, and the number of entries."""
        places = [
            (entry, place)
            for entry, place in enumerate(range(shift, shift + len(self.tokens)))
            if 0 < place < len(self.ids) and self.is_kept(entry, place)
        ]
        return sum(self.ids[place] in self.tokens[entry] for entry, place in places), len(places)


class TeacherReader:
    """Makes rollouts with labels from rows.

    Args:
        kind: `axolotl` or `distillkit`.
        expert: name of the model that the labels are for, for messages.
        tokenizer: its tokenizer.
        top_k: most tokens of a label; None: all that are stored.
        compression: how DistillKit's rows are compressed.
        logprobs_field: field of axolotl's chats with the log-probabilities; None: the first of `LOGPROBS_FIELDS`.

    Attributes:
        expert: see the arguments.
        alignment: what the data was found to say, after the first rows; see the module.
    """

    def __init__(
        self,
        kind: TeacherFormat,
        expert: str,
        tokenizer: PreTrainedTokenizerBase,
        top_k: int | None,
        compression: Quantised | Legacy | None,
        logprobs_field: str | None,
    ) -> None:
        self._kind, self.expert, self._tokenizer, self._top_k = kind, expert, tokenizer, top_k
        self._compression, self._logprobs_field = compression, logprobs_field
        self._pieces = Pieces(tokenizer)
        self._known = tokens_by_id(tokenizer).keys()
        self.alignment: dict[str, Any] = {}

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that decide the labels."""
        compression = self._compression and self._compression.model_dump(mode="json")
        return {"format": self._kind, "top_k": self._top_k, "compression": compression}

    def read(self, rows: Iterable[Row]) -> Iterator[tuple[Rollout, list[Label]]]:
        """The rollouts of these rows; texts without a position to learn from are left out.

        Raises:
            SampleFormatError: a row breaks the format.
        """
        rows = iter(rows)
        while chunk := list(islice(rows, AT_ONCE)):
            with _naming(f"{chunk[0][0]} or one of the {len(chunk)} rows from there"):
                texts = list(self._texts(chunk))
                if not self.alignment:
                    self._align(texts)
            for text in texts:
                with _naming(text.where):
                    found = self._labelled(text)
                if found is not None:
                    yield found

    def _texts(self, rows: Sequence[Row]) -> Iterator[TeacherText]:
        is_chat = [self._kind == "axolotl" and "input_ids" not in fields for _, fields in rows]
        chats = iter(self._chats([row for row, chat in zip(rows, is_chat, strict=True) if chat]))
        for (where, fields), chat in zip(rows, is_chat, strict=True):
            if chat:
                yield next(chats)
            else:
                with _naming(where):
                    found = list(self._tokenised(where, fields))
                yield from found

    def _tokenised(self, where: str, row: Mapping[str, Any]) -> Iterator[TeacherText]:
        """The texts in a row of token ids: several where its attention mask numbers them."""
        ids, mask = _integers(where, row, "input_ids"), row.get("target_mask")
        if self._kind == "distillkit":
            tokens, logprobs = unpack(where, dict(row), self._compression)
        else:
            tokens, logprobs = (_entries(where, row, name) for name in ("target_token_ids", "target_logprobs"))
        known = None if row.get("labels") is None else np.asarray(row["labels"])
        kept = None if known is None else known >= 0
        # Transformers' labels are the ids themselves: they say which tokens to learn, and not which entries.
        by_token = (
            self._kind == "axolotl"
            and mask is None
            and known is not None
            and len(known) == len(ids)
            and bool((known == ids)[known >= 0].all())
        )
        if mask is not None and self._kind == "axolotl":
            logprobs = [_masked(where, *pair) for pair in zip(mask, logprobs, strict=False)]
            kept = np.array([any(one) for one in mask])
        numbers = np.asarray(np.ones(len(ids)) if row.get("attention_mask") is None else row["attention_mask"])
        lengths = {
            "input_ids": len(ids),
            "tokens": len(tokens),
            "log-probabilities": len(logprobs),
            "labels or target_mask": len(tokens) if kept is None else min(len(kept), len(tokens)),
            "attention_mask": len(numbers),
        }
        if len({*lengths.values()} - {len(ids), len(ids) - 1}) or lengths["labels or target_mask"] < len(logprobs):
            said = ", ".join(f"{count} {name}" for name, count in lengths.items())
            raise SampleFormatError(f"{where}: {said}; they belong together. Mend or remove the row")
        cuts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(ids)]
        for first, last in pairwise(cuts):
            if numbers[first]:
                part = slice(first, last)
                of_part = None if kept is None else kept[part]
                yield TeacherText(where, ids[part], tokens[part], logprobs[part], of_part, by_token)

    def _chats(self, rows: Sequence[Row]) -> list[TeacherText]:
        """Chats with the log-probabilities of the last answer's tokens."""
        if not rows:
            return []
        advice = "axolotl's rows have one; name another format with --from"
        turns, questions = [], []
        for row in rows:
            name, value = named(row, None, CHAT_FIELDS, advice)
            chat = turns_of(row, name, value)
            if not chat or chat[-1].role != "assistant":
                raise SampleFormatError(f"{row[0]}: {name} does not end with an answer. Mend or remove the row")
            questions.append(last_turn(row, name, chat, "user"))
            turns.append([{"role": turn.role, "content": turn.text} for turn in chat])
        template = self._tokenizer.get_chat_template()
        asked = [Conversation(chat[:-1]) for chat in turns] + [Conversation(chat, open_turn=False) for chat in turns]
        rendered = render(template, asked, self._tokenizer.special_tokens_map, now())
        texts = []
        for row, prompt, whole, question in zip(
            rows, rendered[: len(rows)], rendered[len(rows) :], questions, strict=True
        ):
            if error := prompt.error or whole.error:
                raise SampleFormatError(f"{row[0]}: the chat template of {self.expert} refuses it ({error})")
            if not whole.text.startswith(prompt.text):
                raise SampleFormatError(
                    f"{row[0]}: the chat template of {self.expert} writes the prompt in another way when the answer "
                    "follows, so no token is certain. Give rows with input_ids"
                )
            first = self._pieces.ids(prompt.text)
            rest = self._pieces.behind(prompt.text, whole.text[len(prompt.text) :])
            texts.append(TeacherText(row[0], first + rest, *self._of_chat(row), start=len(first), question=question))
        return texts

    def _of_chat(self, row: Row) -> tuple[list[list[int]], list[list[float]]]:
        """Tokens and log-probabilities of a chat: two fields, or one of `{"token": "token_id:7", "logprob": -0.1}`."""
        where, fields = row
        name, _ = named(row, self._logprobs_field, LOGPROBS_FIELDS, "name the field with --logprobs-field")
        entries = _entries(where, fields, name)
        if fields.get("target_token_ids") is not None:
            return _entries(where, fields, "target_token_ids"), entries
        try:
            tokens = [[int(one["token"].removeprefix("token_id:")) for one in entry] for entry in entries]
            return tokens, [[float(one["logprob"]) for one in entry] for entry in entries]
        except (TypeError, KeyError, ValueError, AttributeError):
            raise SampleFormatError(
                f"{where}: {name} is {short(entries)}, neither beside target_token_ids nor made of entries such as "
                '{"token": "token_id:7", "logprob": -0.1}. Mend the row'
            ) from None

    def _align(self, texts: Sequence[TeacherText]) -> None:
        """Decide which token an entry is about, by how often it holds that token."""
        shares: dict[str, float] = {}
        for way in ("next", "own", "response"):
            found = [text.hits(text.shifts()[way]) for text in texts if way in text.shifts()]
            entries = sum(count for _, count in found)
            shares[way] = sum(hits for hits, _ in found) / entries if entries else 0.0
        best = max(shares, key=lambda way: shares[way])  # the first of equals: as both trainers' losses read it
        self.alignment = {"aligned": best, "share_of_text": round(shares[best], 4)}
        if best == "own":
            say("entry i is read as the distribution of token i: it holds that token more often than the next one")
        if shares[best] < FEW_HITS:
            warn(
                f"only {shares[best]:.0%} of the tokens of the text are among the teacher's; that is usual for "
                "contrastive labels, and else a sign of another tokenizer or a shifted file"
            )

    def _labelled(self, text: TeacherText) -> tuple[Rollout, list[Label]] | None:
        """The rollout of a text, which begins behind the prompt, or at the first label if the row has no prompt."""
        shift = text.shifts().get(self.alignment["aligned"], text.shifts()["next"])
        places = {
            shift + entry: entry
            for entry in range(len(text.tokens))
            if max(1, text.start or 0) <= shift + entry < len(text.ids)
            and (len(text.tokens[entry]) if text.kept is None else text.is_kept(entry, shift + entry))
        }
        if not places:
            return None
        if any(token not in self._known for token in text.ids):
            wrong = next(token for token in text.ids if token not in self._known)
            raise SampleFormatError(f"{text.where}: input id {short(wrong)} is no token id of {self.expert}")
        start, last = text.start or min(places), max(places)
        question = text.question or str(self._tokenizer.decode(text.ids[:start])).strip() or text.where
        problem = make_problem(question)
        steps = last - start + 1
        columns: dict[str, Any] = {name: [float("nan")] * steps for name in PER_STEP} | {name: [] for name in PER_TOP}
        response = text.ids[start : last + 1]
        rollout = Rollout(problem.id, problem.question, text.ids[:start], response, finished=False, **columns)
        labels = [
            Label(problem.id, place - start, *self._label(text, entry), expert_logprobs=[], amateur_logprobs=[])
            for place, entry in sorted(places.items())
        ]
        return rollout, labels

    def _label(self, text: TeacherText, entry: int) -> tuple[list[int], list[float]]:
        """Tokens, ascending, and probabilities of an entry."""
        tokens, logprobs = np.asarray(text.tokens[entry]), np.asarray(text.logprobs[entry], float)
        if tokens.dtype.kind not in "iu" or tokens.shape != logprobs.shape or tokens.ndim != 1:
            raise SampleFormatError(
                f"{text.where}: entry {entry} has the tokens {short(tokens.tolist())} and log-probabilities "
                f"{short(logprobs.tolist())}; they belong together, one number for each token. Mend or remove the row"
            )
        highest = logprobs.max(initial=-np.inf)
        if not np.isfinite(highest) or np.isnan(logprobs).any():
            raise SampleFormatError(
                f"{text.where}: the log-probabilities of entry {entry} are {short(logprobs.tolist())}; they must be "
                "numbers, one of them finite. Mend or remove the row"
            )
        weights = np.exp(logprobs - highest)
        chosen = np.argsort(-weights, kind="stable")[: self._top_k]
        chosen = np.sort(chosen[weights[chosen] > SMALLEST])
        chosen = chosen[np.argsort(tokens[chosen], kind="stable")]
        found = tokens[chosen].tolist()
        if len(set(found)) < len(found) or not self._known >= set(found):
            raise SampleFormatError(
                f"{text.where}: entry {entry} has the tokens {short(found)}; each must be a token id of "
                f"{self.expert}, and none may come twice. Name the model whose tokenizer the teacher had with --expert"
            )
        return found, (weights[chosen] / weights[chosen].sum()).tolist()


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Values of the wrong kind, wherever they are found, break the format of this row."""
    try:
        yield
    except (TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise SampleFormatError(
            f"{where}: a value is not of the kind that it must be ({' '.join(str(error).split())}). Mend or remove the "
            "row"
        ) from None


def _masked(where: str, mask: Sequence[int], logprobs: Sequence[float]) -> Sequence[float]:
    """Log-probabilities without those that the mask leaves out; as they are where it leaves out all."""
    if len(mask) != len(logprobs):
        raise SampleFormatError(
            f"{where}: {len(mask)} entries of target_mask and {len(logprobs)} log-probabilities of one position; they "
            "belong together. Mend or remove the row"
        )
    return [value if known else -np.inf for known, value in zip(mask, logprobs, strict=True)] if any(mask) else logprobs


def _list(where: str, row: Mapping[str, Any], name: str) -> list[Any]:
    value = row.get(name)
    if not isinstance(value, list):
        raise SampleFormatError(f"{where}: {name} is {short(value)}, not a list. Name another format with --from")
    return value


def _entries(where: str, row: Mapping[str, Any], name: str) -> list[Any]:
    """One list for each position; null is an empty one."""
    return [[] if one is None else one for one in _list(where, row, name)]


def _integers(where: str, row: Mapping[str, Any], name: str) -> list[int]:
    values = _list(where, row, name)
    if not values or any(type(value) is not int for value in values):
        raise SampleFormatError(f"{where}: {name} is {short(values)}, not a list of token ids. Mend or remove the row")
    return values
