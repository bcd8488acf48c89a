"""Outcomes: averages over columns and seeds, paired differences."""

import pytest

from lightreasoner.miniature.word_problems import THEMES
from lightreasoner.studies import outcomes
from lightreasoner.studies.outcomes import Group, difference


def group(*seeds: dict[str, list[float]]) -> Group:
    made = Group([])
    made.__dict__["scores"] = [
        {column: {f"{place}": score for place, score in enumerate(items)} for column, items in seed.items()}
        for seed in seeds
    ]
    return made


def test_the_average_weighs_columns_equally_and_averages_seeds() -> None:
    found = group({"a": [1, 1], "b": [0, 0, 0, 1]}, {"a": [1, 0], "b": [0, 0, 0, 0]})
    assert found.by_seed() == [pytest.approx(62.5), pytest.approx(25.0)]
    assert found.accuracy("AVG") == pytest.approx(43.75)
    assert found.accuracy("a") == pytest.approx(75.0)
    assert found.mean_scores("b") == {"0": 0, "1": 0, "2": 0, "3": 0.5}


def test_a_difference_is_paired_over_items_and_over_seeds() -> None:
    base = group({"a": [0.0] * 60})
    better = group({"a": [1.0] * 30 + [0.0] * 30}, {"a": [1.0] * 32 + [0.0] * 28}, {"a": [1.0] * 31 + [0.0] * 29})
    found = difference(base, better)
    assert found.gain.value == pytest.approx(100 * 31 / 60)
    assert found.gain.low < found.gain.value < found.gain.high
    assert found.p_items < 0.001
    assert found.p_seeds is not None
    assert found.p_seeds < 0.01
    assert found.seeds == 3
    assert found.p_value == max(found.p_items, found.p_seeds)
    assert difference(better, better).gain.value == 0


def test_one_seed_is_compared_with_every_seed_of_the_other_group_on_both_sides() -> None:
    base = group({"a": [0.0] * 60})
    better = group({"a": [1.0] * 30 + [0.0] * 30}, {"a": [1.0] * 32 + [0.0] * 28}, {"a": [1.0] * 31 + [0.0] * 29})
    gain, loss = difference(base, better), difference(better, base)
    assert loss.gain.value == pytest.approx(-gain.gain.value)
    assert (loss.p_items, loss.p_seeds, loss.seeds) == (gain.p_items, pytest.approx(gain.p_seeds), 3)


def test_different_numbers_of_several_seeds_are_refused() -> None:
    two, three = (group(*[{"a": [0.0, 1.0]}] * count) for count in (2, 3))
    with pytest.raises(ValueError, match="2 and 3 seeds are no pairs"):
        difference(two, three)


def test_arithmetic_problems_have_their_kinds_as_columns() -> None:
    kinds = outcomes._kind_of("arithmetic")
    assert len(kinds) == 2000
    assert set(kinds.values()) == set(THEMES)
