"""Two evaluations compared item by item."""

from pathlib import Path

import pytest
from scipy.stats import binomtest

from lightreasoner.errors import DataError
from lightreasoner.evaluation.comparison import compare
from lightreasoner.evaluation.evaluate import evaluate

from .helpers import answers, config_for, verdicts


def test_two_evaluations_are_compared_item_by_item(base: Path, expert: Path, tmp_path: Path) -> None:
    found = compare(base, expert)
    right = {out: {key for key, row in verdicts(out).items() if row.verdict == "correct"} for out in (base, expert)}
    (row,) = found["benchmarks"]
    assert (row["prompt"], row["benchmark"], row["total"]) == ("chat", "arithmetic", 60)
    assert row["gained"] == len(right[expert] - right[base]) > 0
    assert row["lost"] == len(right[base] - right[expert])
    assert row["gain"] == pytest.approx((len(right[expert]) - len(right[base])) / 60)
    assert row["low"] <= row["gain"] <= row["high"]
    discordant = row["gained"] + row["lost"]
    assert row["p_value"] == row["p_holm"] == pytest.approx(binomtest(row["gained"], discordant).pvalue)
    assert found["overall"] == found["warnings"] == row["warnings"] == []
    back = compare(expert, base)["benchmarks"][0]
    assert (back["gained"], back["lost"], back["p_value"]) == (row["lost"], row["gained"], row["p_value"])


def test_different_items_prompts_judges_and_decoding_give_warnings(base: Path, expert: Path, tmp_path: Path) -> None:
    other = {"max_items": 20, "cue": "Think.", "max_answer_tokens": 32, "judge": "toolkit"}
    evaluate(config_for(tmp_path, **other))
    found = compare(base, tmp_path)
    assert found["benchmarks"][0]["total"] == 20
    assert len(found["warnings"]) == 5
    for text in ("different items: 60 and 20, compared on the 20 common ones", "different prompt (cue",
                 "different decoding (max_answer_tokens)", "different judge (judge",
                 "0.0 % of the answers before and 10.0 % after were cut off"):  # fmt: skip
        assert any(text in warning for warning in found["warnings"]), text


def test_other_prompts_are_compared_only_where_there_are_no_equal_ones(
    expert: Path, base: Path, tmp_path: Path
) -> None:
    assert [row["prompt"] for row in compare(base, expert)["benchmarks"]] == ["chat"]
    evaluate(config_for(tmp_path, model="miniature/base", prompts="plain"))
    (row,) = compare(tmp_path, base)["benchmarks"]
    assert (row["prompt"], row["prompts"]) == (None, ("plain", "chat"))
    assert any("different prompt" in warning for warning in row["warnings"])
    both = compare(expert, expert)
    assert [row["prompt"] for row in both["benchmarks"]] == ["chat", "plain"]
    assert [row["prompts"] for row in both["benchmarks"]] == [("chat", "chat"), ("plain", "plain")]
    assert [row["gain"] for row in both["benchmarks"]] == [0, 0]


def test_a_comparison_shows_cut_off_answers_and_warns_where_they_explain_the_gain(expert: Path, tmp_path: Path) -> None:
    evaluate(config_for(tmp_path, max_answer_tokens=24))
    (row,) = compare(tmp_path, expert)["benchmarks"]
    short = answers(tmp_path).values()
    cut = {answer.question_id for answer in short if answer.finish == "length"}
    assert row["lengths"]["before"] == {
        "cut_off": pytest.approx(len(cut) / 60),
        "mean_tokens": pytest.approx(sum(len(answer.output_ids) for answer in short) / 60),
    }
    assert row["lengths"]["after"]["cut_off"] == 0
    text = next(text for text in row["warnings"] if "cut off at the length limit" in text)
    assert f"{100 * len(cut) / 60:.1f} % of the answers before and 0.0 % after" in text
    right = {
        side: {key for key, one in verdicts(side).items() if one.verdict == "correct"} for side in (expert, tmp_path)
    }
    gained = right[expert] - right[tmp_path]
    assert len(gained) == row["gained"] > 0
    assert f"{sum(item in cut for item, _ in gained)} of the {len(gained)} items gained were cut off before" in text
    back = compare(expert, tmp_path)["benchmarks"][0]["warnings"]
    assert f"{len(gained)} items lost were cut off after" in "".join(back)


def test_a_few_cut_off_answers_give_no_warning(base: Path) -> None:
    (row,) = compare(base, base)["benchmarks"]
    assert row["lengths"]["before"]["cut_off"] < 0.05
    assert row["warnings"] == []
    assert row["gain"] == 0
    assert row["low"] < -0.05 < 0.05 < row["high"]  # sixty items


def test_evaluations_without_common_verdicts_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no evaluation"):
        compare(base, tmp_path)
    with pytest.raises(DataError, match="has no verdicts of toolkit"):
        compare(base, base, judge="toolkit")
