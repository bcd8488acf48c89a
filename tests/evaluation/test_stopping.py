"""The stop rule on alarms made by hand: each of its branches."""

from typing import Any

import pytest

from lightreasoner.config import RoundsSettings
from lightreasoner.evaluation.stopping import decide, paired_gain, retained

SETTINGS = RoundsSettings(limit=3)
PROMPTS = [f"q{number}" for number in range(16)]


def alarms(shares: float | list[float], answers: list[str] | None = None, **changes: Any) -> dict[str, Any]:
    """Sound alarms with this majority share on every prompt, or one for each in turn, and the same four answers."""
    values = shares if isinstance(shares, list) else [shares]
    of = {name: values[place % len(values)] for place, name in enumerate(PROMPTS)}
    sound = {"finished": 0.95, "repeated": 0.05, "format_mass": 0.1, "junk_mass": 0.0}
    per_prompt = {"majority_share": of, "answers": dict.fromkeys(PROMPTS, answers or ["7", "7", "7", "8"])}
    return {"majority_share": sum(of.values()) / len(of), **sound, **changes, "per_prompt": per_prompt}


def test_the_first_round_is_always_made() -> None:
    decision = decide([alarms(0.4)], SETTINGS)
    assert (decision.kept, decision.ends) == (0, False)


def test_a_round_that_agrees_more_is_kept_and_the_loop_goes_on() -> None:
    decision = decide([alarms([0.4, 0.5]), alarms([0.6, 0.7])], SETTINGS)
    assert (decision.kept, decision.ends) == (1, False)
    assert "+0.200 ± 0.000 against round 0" in decision.why


def test_each_round_is_compared_with_the_kept_one() -> None:
    decision = decide([alarms(0.4), alarms(0.6), alarms(0.5)], SETTINGS)
    assert (decision.kept, decision.ends) == (1, True)
    assert decision.why.startswith("round 2 is not kept: ")
    assert "-0.100 ± 0.000 against round 1" in decision.why
    assert decision.why.endswith("Round 1 is kept")


def test_a_gain_within_noise_keeps_the_untouched_expert() -> None:
    noisy = [0.2, 0.9]  # before: 0.5; +0.05 on average, ± 0.09
    decision = decide([alarms(0.5), alarms(noisy)], SETTINGS)
    assert (decision.kept, decision.ends) == (0, True)
    assert "--rounds.evidence 1" in decision.why
    assert decision.why.endswith("Round 0 is kept: the expert as it was")


def test_the_evidence_is_a_setting() -> None:
    series = [alarms(0.5), alarms([0.2, 0.9])]
    assert decide(series, RoundsSettings(evidence=0.4)).kept == 1
    assert decide(series, RoundsSettings(evidence=0.6)).kept == 0


def test_no_change_is_no_gain() -> None:
    assert decide([alarms(0.5), alarms(0.5)], RoundsSettings(evidence=0)).kept == 0


def test_a_round_that_gives_up_the_commonest_answers_is_refused() -> None:
    series = [alarms(0.4), alarms(0.6), alarms(0.8, ["7", "7", "8", "8"])]  # "7": half of the last two, then none
    decision = decide(series, SETTINGS)
    assert (decision.kept, decision.ends) == (1, True)
    assert decision.why == (
        "round 2 is not kept: the majority's share of 8 answers changed by +0.200 ± 0.000 against round 1, but the "
        "share of its commonest answers by -0.500 ± 0.000 (--rounds.counter-evidence 2). Round 1 is kept"
    )
    assert decide([series[0], series[2]], SETTINGS).kept == 0, "the first round too"
    assert decide([alarms(0.4), alarms(0.6, ["7", "8", "7", "7"])], SETTINGS).kept == 1, "they may become commoner"


def test_the_counter_evidence_is_a_setting() -> None:
    after = alarms(0.6)
    for name in PROMPTS[::2]:  # 1/2 → 0 on half of the prompts: −0.25 ± 0.065
        after["per_prompt"]["answers"][name] = ["7", "7", "8", "8"]
    assert decide([alarms(0.4), after], RoundsSettings(counter_evidence=3.8)).kept == 0
    assert decide([alarms(0.4), after], RoundsSettings(counter_evidence=3.9)).kept == 1


def test_the_half_that_chooses_the_commonest_answer_is_not_counted() -> None:
    before = {
        "a": ["1", "1", "2", "1"],
        "b": ["3", None, "3", "3"],
        "c": [None, None, "4", "4"],
        "d": ["5", "5", "5", "5"],
    }
    after = {"a": ["9", "9", "1", "1"], "b": ["9", "9", None, "3"], "c": ["4", "4", "9", "9"]}
    gain, error = retained(before, after)  # a: 1/2 → 1; b: 1 → 1/2; c stated nothing in its first half
    assert gain == 0
    assert error == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("name", "bad", "words"),
    [
        ("finished", 0.8, "rollouts that end by themselves fell from 0.95 to 0.80"),
        ("repeated", 0.2, "repeated 4-grams rose from 0.05 to 0.20"),
        ("format_mass", 0.3, "label mass on tokens of format rose from 0.10 to 0.30"),
        ("junk_mass", 0.2, "label mass in scattered labels rose from 0.00 to 0.20"),
    ],
)
def test_a_collapse_is_refused_whatever_the_agreement(name: str, bad: float, words: str) -> None:
    series = [alarms(0.4), alarms(0.6), alarms(1.0, **{name: bad})]
    decision = decide(series, SETTINGS)
    assert (decision.kept, decision.ends) == (1, True)
    assert words in decision.why
    assert decide(series, RoundsSettings(limit=3, most_lost=0.5)).kept == 2


@pytest.mark.parametrize(("name", "good"), [("finished", 1.0), ("repeated", 0.0), ("format_mass", 0.0)])
def test_an_alarm_that_gets_better_is_none(name: str, good: float) -> None:
    settings = RoundsSettings(most_lost=0.0)
    assert decide([alarms(0.4), alarms(0.6, **{name: good})], settings).kept == 1


def test_a_round_that_failed_is_not_kept() -> None:
    decision = decide([alarms(0.4), alarms(0.6), {"failure": "none of 9 steps exceeds β = 0.4."}], SETTINGS)
    assert (decision.kept, decision.ends) == (1, True)
    assert "could not be made or measured (none of 9 steps exceeds β = 0.4). Round 1 is kept" in decision.why


def test_the_limit_ends_the_loop_with_the_last_round() -> None:
    series = [alarms(share) for share in (0.2, 0.4, 0.6, 0.8)]
    assert not decide(series[:3], SETTINGS).ends
    decision = decide(series, SETTINGS)
    assert (decision.kept, decision.ends) == (3, True)
    assert "It is the last of --rounds.limit 3" in decision.why


def test_rounds_beyond_a_limit_that_was_lowered_do_not_count() -> None:
    decision = decide([alarms(share) for share in (0.2, 0.4)], RoundsSettings(limit=1))
    assert (decision.kept, decision.ends) == (1, True)


def test_the_error_is_that_of_paired_differences() -> None:
    before, after = {"a": 0.1, "b": 0.9, "c": 0.5}, {"a": 0.3, "b": 1.0, "c": 0.5}
    gain, error = paired_gain(before, after)
    assert gain == pytest.approx(0.1)
    assert error == pytest.approx(0.1 / 3**0.5)  # deviations 0.1, 0, −0.1
    assert paired_gain({"a": 1.0}, {"a": 2.0}) == (0.0, float("inf")), "one prompt shows nothing"
