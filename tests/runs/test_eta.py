"""The time left, on simulated stages whose true time is known. Times are those of the simulation: nothing waits."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightreasoner.runs.eta import Batch, Estimate, Load

Event = tuple[float, str, int]
Lengths = Callable[[np.random.Generator, int, int], np.ndarray]


@dataclass(frozen=True)
class Machine:
    """Seconds of a step: `step` + `row` · rows + `token` · rows · tokens; and of a token that is read."""

    step: float
    row: float
    token: float
    read: float
    noise: float = 0.1


CPU = Machine(0.1, 0.01, 2e-6, 0.007)
GPU = Machine(0.03, 1e-5, 1e-8, 5e-5)
ATTENTION_BOUND = Machine(0.05, 1e-3, 3e-6, 1e-4)  # a long context costs more than the weights
MACHINES = {"cpu": CPU, "gpu": GPU, "attention": ATTENTION_BOUND}


def at_cap(rng: np.random.Generator, count: int, most: int) -> np.ndarray:
    return np.full(count, most)


def geometric(rng: np.random.Generator, count: int, most: int) -> np.ndarray:
    return np.minimum(rng.geometric(5 / most, count), most)


def natural(rng: np.random.Generator, count: int, most: int) -> np.ndarray:
    """A hump, as of answers to questions of one kind."""
    return np.clip(rng.lognormal(np.log(most / 4), 0.4, count), 1, most).astype(int)


def long_tail(rng: np.random.Generator, count: int, most: int) -> np.ndarray:
    """Most end early, and one in twelve repeats itself up to the cap."""
    return np.where(rng.random(count) < 1 / 12, most, natural(rng, count, most // 2))


def prompts(rng: np.random.Generator, count: int, longest: int) -> list[int]:
    return sorted(rng.integers(40, longest, count).tolist())


def events(
    rng: np.random.Generator, machine: Machine, plan: Sequence[Batch], lengths: Lengths, every: int
) -> Iterator[Event]:
    """(seconds since the event before, kind, number) of a stage; ended texts are seen at every `every`-th step."""

    def took(seconds: float) -> float:
        return seconds * rng.lognormal(0, machine.noise)

    for batch in plan:
        written = lengths(rng, batch.rows, batch.most)
        yield took(batch.read * machine.read), "tokens", batch.read
        seen = running = batch.rows
        yield 0.0, "step", batch.rows
        for step in range(1, int(written.max())):
            running = int((written > step).sum())
            cost = machine.step + machine.row * running + machine.token * running * (batch.longest + step)
            seen = running if step % every == 0 else seen
            yield took(cost), "step", seen
        yield 0.0, "step", 0
        texts = batch.read + int(written.sum())
        yield took(0.7 * machine.read * texts * batch.passes + 0.2), "tokens", texts
        yield 0.0, "finish", batch.rows


def error_at(tenth: float, trace: Sequence[Event], plan: Sequence[Batch], done: int = 0) -> float:
    """Relative error of the time left, after this share of the whole time."""
    whole, now = sum(seconds for seconds, *_ in trace), 0.0
    estimate = Estimate(done + sum(batch.rows for batch in plan), done, plan, now)
    for seconds, kind, number in trace:
        if now + seconds > tenth * whole:
            break
        now += seconds
        if kind == "step":
            estimate.step(number, now)
        elif kind == "tokens":
            estimate.tokens(number)
        else:
            estimate.finish(number, None, now)
    left = estimate.left(tenth * whole)
    assert left is not None
    return left / ((1 - tenth) * whole) - 1


STAGES = {
    "many batches": (1000, 64, 512, 250),
    "few large batches": (256, 128, 1024, 250),
    "one batch": (64, 64, 2048, 250),
    "growing prompts": (1000, 64, 256, 1500),
    "a resumed run": (300, 64, 512, 250),
    "small batches": (200, 4, 512, 250),
}


ALL_LENGTHS = [at_cap, geometric, natural, long_tail]


def simulated(stage: str, lengths: Lengths, machine: str, passes: float) -> tuple[list[Batch], list[Event]]:
    questions, size, most, longest = STAGES[stage]
    rng = np.random.default_rng(1)
    loads = [Load(tokens, most) for tokens in prompts(rng, questions, longest)]
    plan = [Batch.of(loads[start : start + size], passes) for start in range(0, questions, size)]
    return plan, list(events(rng, MACHINES[machine], plan, lengths, every=8 if machine == "gpu" else 1))


@pytest.mark.parametrize("passes", [0.0, 1.0])
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("stage", "lengths"),
    [
        *((stage, lengths) for stage in ("many batches", "growing prompts") for lengths in ALL_LENGTHS),
        *((stage, at_cap) for stage in STAGES),  # nothing has ended yet, and nothing will
        ("small batches", geometric),
        ("small batches", natural),
    ],
)
def test_the_time_left_is_within_30_percent_after_a_tenth(
    stage: str, lengths: Lengths, machine: str, passes: float
) -> None:
    plan, trace = simulated(stage, lengths, machine, passes)
    assert abs(error_at(0.1, trace, plan, done=700 if stage == "a resumed run" else 0)) < 0.3


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("lengths", ALL_LENGTHS)
@pytest.mark.parametrize("stage", ["few large batches", "a resumed run"])
def test_it_is_after_the_first_batch_where_the_first_tenth_lies_in_it(
    stage: str, lengths: Lengths, machine: str
) -> None:
    plan, trace = simulated(stage, lengths, machine, 1.0)
    times, kinds, _ = zip(*trace, strict=True)
    first = sum(times[: kinds.index("finish") + 1]) / sum(times)
    assert first > 0.1
    assert abs(error_at(first, trace, plan)) < 0.3


def test_a_file_of_many_bytes_takes_no_memory_for_each() -> None:
    estimate = Estimate(10**12, 0, [], 0.0)
    estimate.finish(10**11, None, 10.0)
    assert estimate.left(10.0) == pytest.approx(90)
    assert estimate.left(40.0) == pytest.approx(60)


def test_steps_without_a_plan_leave_the_estimate_to_the_finished_items() -> None:
    estimate = Estimate(40, 0, [], 0.0)
    for second in range(10):
        estimate.step(4, float(second))
    assert estimate.left(9.0) is None
    estimate.finish(10, None, 10.0)
    assert estimate.left(10.0) == pytest.approx(30)


loads = st.builds(Load, st.integers(0, 50), st.sampled_from([0, 1, 5, 40]))
happenings = st.tuples(
    st.sampled_from(["step", "tokens", "finish", "look"]), st.integers(0, 9), st.sampled_from([0.0, 1e-9, 0.1, 60.0])
)


@given(st.lists(st.lists(loads, min_size=1, max_size=4), max_size=4), st.lists(happenings, max_size=60), st.booleans())
def test_no_order_of_events_breaks_it(
    batches: list[list[Load]], all_events: list[tuple[str, int, float]], elsewhere: bool
) -> None:
    """Batches run out of memory and are halved, fail, come from other processes, or are more than were planned."""
    estimate, now = Estimate(20, 3, [Batch.of(batch, 1.0) for batch in batches], 5.0), 5.0
    for kind, number, seconds in all_events:
        now += seconds
        if kind == "step":
            estimate.step(number, now)
        elif kind == "tokens":
            estimate.tokens(number)
        elif kind == "finish":
            estimate.finish(number, number if elsewhere else None, now)
        left = estimate.left(now)
        assert left is None or 0 <= left < 1e12
        assert estimate.speed(now) >= 0
