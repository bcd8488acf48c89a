"""How long a stage will still take, estimated from the tokens that its models have generated and read.

Batches of generated texts differ: prompts grow, texts end early, and the last steps of a batch have few rows left. So
three things are learned on the way: the seconds of a step with r running rows of T tokens, a + b·r + c·r·T (least
squares, no negative coefficients); the share of the texts that end at each step (Kaplan and Meier 1958, doi
10.1080/01621459.1958.10501452); and the seconds per token of reading prompts and of everything after the last step.
The estimate adds them up over the rest of the running batch and all batches to come.

Stages that report no steps are estimated from the tokens, or from the number, of their finished items.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PRIOR_ROWS = 0.5  # rows at risk whose deaths are expected, not observed: smooths steps that few texts have reached
PRIOR_STEPS = 1.0  # observed steps that weigh as much as the assumed coefficients


@dataclass(frozen=True)
class Load:
    """What is known of an item before work on it begins.

    Attributes:
        read: tokens of its prompt.
        most: most tokens that are generated for it; 0 if nothing is generated.
    """

    read: int
    most: int = 0


@dataclass(frozen=True)
class Batch:
    """What is known of a batch before work on it begins.

    Attributes:
        rows: number of texts.
        read: tokens of all prompts.
        longest: tokens of the longest prompt.
        most: most tokens that are generated for a text.
        passes: passes over whole texts that follow the generation, such as that of another model.
    """

    rows: int
    read: int
    longest: int
    most: int
    passes: float = 0.0

    @classmethod
    def of(cls, loads: Iterable[Load], passes: float = 0.0) -> "Batch":
        """The batch of these items."""
        known = list(loads)
        reads = [load.read for load in known]
        return cls(len(known), sum(reads), max(reads), max(load.most for load in known), passes)


class Estimate:
    """The time that is left for some work. Times are seconds of any one clock.

    Args:
        total: items to do, of which `done` are finished.
        plan: the batches to come, in their order. Empty where they are not known, or where other processes take some of
            them too.
        now: time at which the work begins.
    """

    def __init__(self, total: int, done: int, plan: Sequence[Batch], now: float) -> None:
        self.total, self.done = total, done
        self._plan, self._next = list(plan), 0
        self._began = self._last = self._finished_at = now
        self._tokens = self._finished_tokens = 0
        self._weights = [batch.read + batch.rows * batch.most for batch in self._plan]
        # Items of a stage without a plan weigh 1 each.
        self._weight, self._finished_weight = sum(self._weights) or total - done, 0
        cap = max((batch.most for batch in self._plan), default=0)
        self._running = _Running()
        self._steps = _StepTime()
        self._lengths = _Lengths(cap)
        self._reading, self._after = _PerToken(), _PerToken()

    def tokens(self, count: int) -> None:
        """Texts of so many tokens were read, or generated elsewhere: no generation of this process is in progress."""
        self._tokens += count
        self._running.rows = 0

    def step(self, rows: int, now: float) -> None:
        """The running batch generated a token for `rows` texts; 0 after the last step."""
        run, seconds = self._running, now - self._last
        self._tokens += rows
        self._last = now
        batch = self._batch
        if not rows:
            if run.rows and run.step + 1 < batch.most:
                self._lengths.count(run.step, run.rows, ended=run.rows)
            run.rows = 0
            return
        if run.rows:
            self._lengths.count(run.step, run.rows, ended=max(0, run.rows - rows))
            run.step += 1
            self._steps.add(rows, batch.longest + run.step, seconds)
        else:  # a new generation: its prompts were read meanwhile, and its first tokens chosen
            self._reading.add(batch.read * rows / batch.rows, seconds)
            run.step, run.begun = 0, run.begun + rows
        run.rows = rows

    def finish(self, items: int, tokens: int | None, now: float) -> None:
        """The next batch of the plan, or without a plan some items, are finished; `tokens`: see `Advance`."""
        if self._next < len(self._plan) and self._running.begun:
            batch = self._batch
            self._after.add(batch.read + batch.rows * self._lengths.mean(batch.most), now - self._last)
        if not self._plan:
            self._finished_weight += items
        elif self._next < len(self._plan):
            self._finished_weight += self._weights[self._next]
        self._next += 1
        self.done += items
        self._finished_tokens = self._tokens if tokens is None else self._finished_tokens + tokens
        self._last = self._finished_at = now
        self._running = _Running()

    def speed(self, now: float) -> float:
        """Tokens per second since the beginning."""
        return self._tokens / max(now - self._began, 1e-9)

    def left(self, now: float) -> float | None:
        """Seconds until the end; None while nothing is known."""
        if self.done >= self.total:
            return 0.0
        return self._from_steps(now) if self._plan and self._steps.count else self._from_items(now)

    @property
    def is_rough(self) -> bool:
        """Whether no batch is finished yet, so that little is known of when texts end."""
        return self._finished_at == self._began

    @property
    def _batch(self) -> Batch:
        """The running batch; without a plan one of unknown length."""
        return self._plan[self._next] if self._next < len(self._plan) else Batch(1, 0, 0, 0)

    def _from_items(self, now: float) -> float | None:
        """From the finished items: by their tokens if these were counted, else by time."""
        finished, total = self._finished_weight, self._weight
        if not finished:
            return None
        if not self._finished_tokens:
            left = (self._finished_at - self._began) * (total / finished - 1)
            return float(max(0.0, left - (now - self._finished_at)))
        expected = self._finished_tokens * total / finished
        return float(max(0.0, expected - self._tokens) / max(self.speed(now), 1e-9))

    def _from_steps(self, now: float) -> float:
        """From the steps: the rest of the running batch, and the batches to come."""
        seconds = 0.0
        for alike, some in groupby(self._plan[self._next + 1 :], lambda batch: (batch.rows, batch.most, batch.passes)):
            batches = list(some)  # of the same rows and cap, so all but the prompts is the same
            first, others = batches[0], len(batches)
            mean = Batch(
                alike[0],
                sum(batch.read for batch in batches) // others,
                sum(batch.longest for batch in batches) // others,
                first.most,
                first.passes,
            )
            seconds += others * self._whole(mean, mean.rows)
        return seconds + max(0.0, self._rest() - (now - self._last))

    def _rest(self) -> float:
        """The running batch from its last step on."""
        if self._next >= len(self._plan):
            return 0.0
        run, batch = self._running, self._batch
        decoding = self._decoding(run.rows, run.step + 1, batch)
        waiting = batch.rows - run.begun
        if waiting > 0:
            decoding += self._whole(batch, waiting, after=False)
        return decoding + self._after_seconds(batch)

    def _whole(self, batch: Batch, rows: int, after: bool = True) -> float:
        """A batch of this many rows, from the reading of its prompts on."""
        reading = self._reading.each * batch.read * rows / batch.rows
        decoding = self._decoding(rows, 1, batch)
        return reading + decoding + (self._after_seconds(batch) if after else 0.0)

    def _decoding(self, rows: int, first: int, batch: Batch) -> float:
        """Seconds of the steps from `first` on, of as many rows as run before it."""
        if not rows or first >= batch.most:
            return 0.0
        share = self._lengths.running(first, batch.most)
        tokens = np.arange(first, batch.most) + batch.longest
        texts, steps = rows * share, 1 - (1 - share) ** rows  # expected, and the probability that one is left
        coefficients = self._steps.coefficients(self._reading.each)
        return float(coefficients @ [steps.sum(), texts.sum(), (texts * tokens).sum()])

    def _after_seconds(self, batch: Batch) -> float:
        """From the last step to the end of the batch: measured in finished ones, before as so many readings."""
        each = self._after.each if self._after.tokens else batch.passes * self._reading.each
        return each * (batch.read + batch.rows * self._lengths.mean(batch.most))


@dataclass
class _Running:
    """The generation in progress: rows at its last step, that step's number, and rows of the batch begun so far."""

    rows: int = 0
    step: int = 0
    begun: int = 0


@dataclass
class _PerToken:
    """Seconds per token."""

    tokens: float = 0.0
    seconds: float = 0.0

    def add(self, tokens: float, seconds: float) -> None:
        self.tokens += tokens
        self.seconds += seconds

    @property
    def each(self) -> float:
        return self.seconds / self.tokens if self.tokens else 0.0


class _StepTime:
    """Seconds of a decoding step: a + b·rows + c·rows·tokens, fitted to all steps so far."""

    def __init__(self) -> None:
        self.count = 0
        self._products = np.zeros((3, 3))
        self._with_seconds = np.zeros(3)
        self._seconds = 0.0

    def add(self, rows: int, tokens: int, seconds: float) -> None:
        facts = np.array([1.0, rows, rows * tokens])
        self._products += np.outer(facts, facts)
        self._with_seconds += facts * seconds
        self._seconds += seconds
        self.count += 1

    def coefficients(self, reading: float) -> Floats:
        """a, b and c. While all steps are alike, b is about the seconds `reading` that a token takes to be read."""
        # In units of the means, so that the assumed shares are comparable.
        scale: Floats = np.maximum(self._products[0] / self.count, 1e-12)  # mean of 1, rows, rows · tokens
        mean = max(self._seconds / self.count, 1e-12)
        of_rows = min(max(reading * scale[1] / mean, 0.1), 0.9)
        assumed = np.array([1 - of_rows, of_rows, 0.0])
        products = self._products / np.outer(scale, scale) + PRIOR_STEPS * np.eye(3)
        with_seconds = self._with_seconds / scale / mean + PRIOR_STEPS * assumed
        chosen = [0, 1, 2]
        while True:  # without the most negative coefficient, until none is: at most three turns
            found = np.linalg.solve(products[np.ix_(chosen, chosen)], with_seconds[chosen])
            if len(chosen) == 1 or found.min() >= 0:
                break
            chosen.pop(int(found.argmin()))
        coefficients: Floats = np.zeros(3)
        coefficients[chosen] = found
        coefficients *= mean / scale
        return coefficients


class _Lengths:
    """When generated texts end: rows at risk and rows that ended, by step."""

    def __init__(self, most: int) -> None:
        self._at_risk, self._ended = np.zeros(most), np.zeros(most)
        self._longest = 0

    def count(self, step: int, rows: int, ended: int) -> None:
        if step < len(self._at_risk):
            self._at_risk[step] += rows
            self._ended[step] += ended
            self._longest = max(self._longest, step + 1)

    def running(self, first: int, most: int) -> Floats:
        """Share of the texts running at step `first` − 1 that run at the steps from `first` to `most`."""
        return np.asarray(np.cumprod(1 - self._hazards()[first - 1 : most - 1]), np.float64)

    def mean(self, most: int) -> float:
        """Expected tokens of a text that ends after `most` at the latest."""
        return 1 + float(self.running(1, most).sum()) if most else 0.0

    def _hazards(self) -> Floats:
        """Share of the running texts that end at each step.

        Steps that no text has reached are like the last three quarters of those that some have reached. A tenth of a
        text more than was seen is assumed to end, in a tenth of the steps that a text has at most.
        """
        later = slice(self._longest // 4, self._longest)
        ended, at_risk = self._ended[later].sum() + 0.1, self._at_risk[later].sum() + 0.1 * len(self._ended)
        result: Floats = (self._ended + PRIOR_ROWS * ended / at_risk) / (self._at_risk + PRIOR_ROWS)
        return result
