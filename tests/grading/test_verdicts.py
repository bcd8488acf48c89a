"""Majority votes over answers in normal form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightreasoner.grading.verdicts import majority


@pytest.mark.parametrize(
    ("keys", "index"),
    [
        (["7", "8", "8"], 1),
        (["7", "8", "8", "7"], 0),  # a tie goes to the key that came first …
        (["9", "8", "7", "8", "7"], 1),  # … not to the one that reached its count first
        (["7", "9", "8", "8", "9"], 1),
        ([None, None, None, "7"], 3),  # no answer, no vote
        (["", None, None], 0),
        ([None, None], None),
        ([], None),
    ],
)
def test_the_majority_is_the_first_sample_with_the_most_frequent_key(keys: list[str | None], index: int | None) -> None:
    assert majority(keys) == index


@given(st.lists(st.sampled_from(["1", "2", "3", None])))
def test_no_key_is_more_frequent_than_the_majoritys_and_none_as_frequent_came_before(keys: list[str | None]) -> None:
    index = majority(keys)
    if index is None:
        assert set(keys) <= {None}
    else:
        assert keys[index] is not None
        assert all(keys.count(key) < keys.count(keys[index]) for key in keys[:index] if key is not None)
        assert all(keys.count(key) <= keys.count(keys[index]) for key in keys if key is not None)
