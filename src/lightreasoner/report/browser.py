"""The rollouts and cases as blocks of data for the browsers of the page.

Each block is a `<script type="application/json">` with one JSON string: Base64 of deflated JSON. A block holds some
rollouts, or some cases. The data for filters and sorting are in separate index blocks, which the page reads first.
Numbers are integers: probabilities in units of 0.01 %, nats in units of 0.001, the digits that the page shows.
"""

import base64
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from lightreasoner.data.benchmarks import title_of
from lightreasoner.report.cases import Case, CaseAnswer
from lightreasoner.report.tokens import TokenTexts, visible
from lightreasoner.samples.folder import Label, ScoredRollout

T = TypeVar("T")

ROLLOUTS_PER_BLOCK = 25
CASES_PER_BLOCK = 50
KEPT, AGREES, DISAGREES = 1, 2, 4  # flags of a step


class _Blocks(Generic[T]):
    """Blocks of items: `index` of each goes to one kind of block, `details` to another, `size` items to a block.

    Items beyond `limit` are left out.
    """

    def __init__(
        self, sink: BinaryIO, prefix: str, size: int, limit: int, index: Callable[[T], Any], details: Callable[[T], Any]
    ) -> None:
        self.sink = sink
        self._prefix = prefix
        self._size = size
        self._limit = limit
        self._parts = {"index": index, "block": details}
        self._waiting: list[T] = []
        self.blocks = 0
        self.items = 0

    def add(self, item: T) -> None:
        """Add an item; a full block is written."""
        if self.items < self._limit:
            self.items += 1
            self._waiting.append(item)
            if len(self._waiting) == self._size:
                self.flush()

    def flush(self) -> None:
        """Write the items that wait."""
        if self._waiting:
            for name, part in self._parts.items():
                self.sink.write(_block(f"{self._prefix}{name}-{self.blocks}", [part(item) for item in self._waiting]))
            self.blocks += 1
            self._waiting = []


class BlockWriter:
    """Writes rollouts in blocks to `sink`; memory holds one block, and the ids of all tokens.

    Args:
        sink: file for the blocks.
        texts: the expert's tokens.
        alpha: α of Eq 4; None if unknown.
        limit: largest number of rollouts; further ones are left out.
    """

    def __init__(self, sink: BinaryIO, texts: TokenTexts, alpha: float | None, limit: int) -> None:
        self._blocks = _Blocks[ScoredRollout](sink, "", ROLLOUTS_PER_BLOCK, limit, _index, self._details)
        self._texts = texts
        self._alpha = alpha
        self._ids: set[int] = set()
        self.add = self._blocks.add

    @property
    def rollouts(self) -> int:
        """Rollouts that were written."""
        return self._blocks.items

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Write the last block, then the tokens' texts and these facts, which the page reads first."""
        self._blocks.flush()
        ids = sorted(self._ids)
        content = {
            **facts,
            "blocks": self._blocks.blocks,
            "rollouts": self.rollouts,
            "ids": ids,
            "texts": [self._texts.token(index).text for index in ids],
            "control": [index for index in ids if self._texts.token(index).control],
        }
        self._blocks.sink.write(_block("browser", content))

    def _details(self, rollout: ScoredRollout) -> dict[str, Any]:
        tops, scored = rollout.per_top, ~rollout.unaligned
        for ids in (rollout.response_ids, tops["expert_top_ids"][scored], tops["amateur_top_ids"][scored]):
            self._ids.update(np.unique(ids).tolist())
        self._ids.update(*(step.token_ids for step in rollout.labels.values()))
        return {
            "t": rollout.response_ids.tolist(),
            "he": _milli(rollout.per_step["expert_entropy"]),
            "ha": _milli(rollout.per_step["amateur_entropy"]),
            "pe": _shares(rollout.per_step["expert_logprob"]),
            "pa": _shares(rollout.per_step["amateur_logprob"]),
            "ei": _where(scored, tops["expert_top_ids"].tolist()),
            "ep": _where(scored, [_shares(row) for row in tops["expert_top_logprobs"]]),
            "ai": _where(scored, tops["amateur_top_ids"].tolist()),
            "ap": _where(scored, [_shares(row) for row in tops["amateur_top_logprobs"]]),
            "m": self._plausible(tops["expert_top_logprobs"]),
            "l": {str(position): _label(step) for position, step in rollout.labels.items()},
        }

    def _plausible(self, logprobs: NDArray[np.float64]) -> list[int]:
        """Number of the expert's top tokens in the α-mask at each step (Eq 4; top tokens are in descending order)."""
        if self._alpha is None or not logprobs.shape[1]:
            return []
        counts: list[int] = (np.exp(logprobs - logprobs[:, :1]) >= self._alpha).sum(1).tolist()
        return counts


class CaseWriter:
    """Writes cases in blocks to `sink`; memory holds one block, and further cases than `limit` are left out."""

    def __init__(self, sink: BinaryIO, limit: int) -> None:
        self._blocks = _Blocks[Case](sink, "case-", CASES_PER_BLOCK, limit, self._index, _case)
        self._benchmarks: dict[str, int] = {}
        self.add = self._blocks.add

    @property
    def cases(self) -> int:
        """Cases that were written."""
        return self._blocks.items

    def finish(self) -> None:
        """Write the last block, then what the page reads first."""
        self._blocks.flush()
        if self.cases:
            facts = {"blocks": self._blocks.blocks, "benchmarks": list(self._benchmarks)}
            self._blocks.sink.write(_block("cases", facts))

    def _index(self, case: Case) -> dict[str, Any]:
        name = f"{title_of(case.benchmark)}, {case.prompt}"
        return {
            "b": self._benchmarks.setdefault(name, len(self._benchmarks)),
            "r": int(case.after.correct),
            "q": case.question,
            "g": case.gold,
            "c": [int(case.before.cut_off), int(case.after.cut_off)],
        }


def _case(case: Case) -> dict[str, Any]:
    return {"d": case.diverges_at, "a": [_answer(case.before), _answer(case.after)]}


def _answer(answer: CaseAnswer) -> dict[str, Any]:
    return {
        "s": answer.shared,
        "m": answer.diverging,
        "r": answer.rest,
        "x": answer.extracted,
        "o": int(answer.correct),
        "c": answer.cut,
        "n": answer.tokens,
        "l": int(answer.cut_off),
    }


def _block(name: str, content: Any) -> bytes:
    """Data as an element of a page; Base64 has no character that could end the element."""
    packed = base64.b64encode(zlib.compress(json.dumps(content, separators=(",", ":")).encode(), 7))
    return b'<script type="application/json" id="data-%s">"%s"</script>\n' % (name.encode(), packed)


def _index(rollout: ScoredRollout) -> dict[str, Any]:
    agrees = rollout.agrees
    flags = np.zeros(len(rollout.kl), dtype=np.int64)
    flags[list(rollout.labels)] |= KEPT
    if agrees is not None:
        flags |= np.where(agrees, AGREES, DISAGREES) * ~rollout.unaligned
    return {
        "q": visible(rollout.question),
        "e": int(rollout.finished),
        "k": _milli(rollout.kl),
        "f": "".join(map(str, flags.tolist())),
    }


def _label(step: Label) -> dict[str, Any]:
    """Tokens of a label by weight, with v_C, π_E and π_A."""
    order = sorted(range(len(step.token_ids)), key=lambda place: -step.weights[place])
    columns: dict[str, Sequence[int | None]] = {
        "i": step.token_ids,
        "w": _shares(np.log(np.maximum(step.weights, 1e-300))),
        "e": _shares(np.array(step.expert_logprobs)),
        "a": _shares(np.array(step.amateur_logprobs)),
    }
    return {name: [values[place] for place in order] for name, values in columns.items() if values}


def _where(scored: NDArray[np.bool_], rows: list[Any]) -> list[Any]:
    """The top tokens of the steps that were scored; none of the others."""
    return [row if known else [] for row, known in zip(rows, scored, strict=True)]


def _milli(values: NDArray[np.float64]) -> list[int | None]:
    return _whole(1000 * values)


def _shares(logprobs: NDArray[np.float64]) -> list[int | None]:
    return _whole(10_000 * np.exp(logprobs))


def _whole(values: NDArray[np.float64]) -> list[int | None]:
    if np.isfinite(values).all():
        whole: list[int | None] = np.rint(values).astype(np.int64).tolist()
        return whole
    return [round(value) if np.isfinite(value) else None for value in values.tolist()]
