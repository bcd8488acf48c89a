"""The tables show the numbers of the results."""

from typing import Any

from lightreasoner.report.tables import (
    benchmark_lines,
    benchmark_rows,
    comparison_lines,
    evaluation_lines,
    finetune_lines,
    merge_lines,
    p_value,
    run_lines,
    sample_lines,
    table,
)

FIGURES: dict[str, Any] = {
    "correct": 11, "wrong": 6, "no_answer": 1, "timeout": 1, "grader_error": 1, "truncated": 2, "prompt_too_long": 0,
    "total": 20, "metric": "acc", "accuracy": 0.55, "low": 0.3421, "high": 0.7418, "verified": False,
}  # fmt: skip


def test_columns_are_aligned_and_the_table_is_markdown() -> None:
    assert table(["a", "long"], [["1", "2"], ["333", "4"]]) == [
        "| a   | long |",
        "| --- | ---- |",
        "| 1   | 2    |",
        "| 333 | 4    |",
    ]


def test_an_evaluation_reads_like_table_1_with_intervals_and_all_verdicts() -> None:
    other = {**FIGURES, "accuracy": 0.25, "pass_at": {"1": 0.25, "4": 0.5}, "majority": 0.3}
    lines = evaluation_lines({"chat/gsm8k": FIGURES, "plain/gsm8k": other, "chat/svamp": other})
    assert lines[0].split() == "| prompt | GSM8K | SVAMP | AVG |".split()
    assert lines[2].split("|")[1:-1][0].strip() == "chat"
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == [
        "chat", "55.0 (34.2 to 74.2)", "25.0 (34.2 to 74.2)", "40.0",
    ]  # fmt: skip
    assert [cell.strip() for cell in lines[3].split("|")[1:-1]] == ["plain", "25.0 (34.2 to 74.2)", "", ""]
    (first,) = [line for line in lines if line.startswith("chat/gsm8k")]
    assert "n = 20, acc, 11 correct, 6 wrong, 1 no answer, 1 timeout, 1 grader error, 2 cut off" in first
    assert "not verified against a published figure" in first
    assert "too long" not in first
    (second,) = [line for line in lines if line.startswith("plain/gsm8k")]
    assert "pass@1 25.0, pass@4 50.0, majority vote 30.0" in second


def test_a_comparison_shows_deltas_intervals_tests_and_warnings() -> None:
    row = {
        "prompts": ("chat", "chat"), "benchmark": "gsm8k", "total": 1319, "before": 0.425, "after": 0.706,
        "gain": 0.281, "low": 0.25, "high": 0.31, "gained": 400, "lost": 30, "p_value": 1.2e-30, "p_holm": 2.4e-30,
        "minimal_detectable": 0.0321,
        "lengths": {
            "before": {"cut_off": 0.9, "mean_tokens": 46.25}, "after": {"cut_off": 0.031, "mean_tokens": 31.0},
        },
    }  # fmt: skip
    blind = {**row, "prompts": ("plain", "chat"), "benchmark": "svamp", "minimal_detectable": None}
    blind["lengths"] = {side: {"cut_off": None, "mean_tokens": None} for side in ("before", "after")}
    result = {"benchmarks": [row, blind], "overall": [{**row, "benchmarks": 2}], "warnings": ["gsm8k: different judge"]}
    lines = comparison_lines(result)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[:5]]
    assert cells[2] == [
        "chat", "GSM8K", "1319", "42.5", "70.6", "+28.1 (+25.0 to +31.0)", "400 / 30", "1.2e-30", "2.4e-30", "3.2",
        "90.0 → 3.1", "46.2 → 31.0",
    ]  # fmt: skip
    assert cells[0][-3:] == ["MDE", "cut off", "tokens"]
    assert (cells[3][0], *cells[3][-3:]) == ("plain → chat", "", "", "")
    assert cells[4][1] == "AVG of 2"
    assert lines[-1] == "warning: gsm8k: different judge"


def test_an_evaluation_says_how_many_answers_were_cut_off_and_how_long_they_are() -> None:
    cut = {**FIGURES, "truncated": 18, "cut_off": 0.9, "mean_tokens": 38.5}
    lines = evaluation_lines({"chat/gsm8k": cut, "chat/svamp": {**cut, "cut_off": 0.05}})
    assert "18 cut off at the length limit, 38.5 tokens an answer" in lines[4]
    (warning,) = [line for line in lines if line.startswith("warning: ")]
    assert "chat/gsm8k: 90.0 % of the answers were cut off" in warning
    assert "--max-answer-tokens" in warning


def test_an_evaluation_says_how_many_prompts_were_beyond_the_context() -> None:
    lines = evaluation_lines({"chat/gsm8k": {**FIGURES, "prompt_too_long": 6}, "chat/svamp": FIGURES})
    (warning,) = [line for line in lines if line.startswith("warning: ")]
    assert "chat/gsm8k: no answer to 6 prompts" in warning


def test_the_list_of_benchmarks_says_size_source_and_whether_verified() -> None:
    rows = benchmark_rows()
    assert rows["mmlu_stem"] | {"source": "", "items_sha256": ""} == {
        "name": "mmlu_stem", "title": "MMLU-STEM", "items": 3018, "answers": "choice", "shots": 5, "metric": "acc",
        "source": "", "file": "mmlu_stem/test.jsonl", "items_sha256": "", "verified": False,
    }  # fmt: skip
    assert rows["hellaswag"]["file"] == "hellaswag/validation.jsonl"
    lines = benchmark_lines(rows)
    assert len(lines) == 2 + len(rows) + 2
    assert "openai/gsm8k@740312add88f" in lines[2]


def test_a_p_value_is_readable_however_small() -> None:
    assert [p_value(value) for value in (1.0, 0.0342, 2.3e-96, 0.0)] == ["1", "0.034", "2e-96", "<1e-300"]


def test_a_run_counts_the_kept_steps_of_its_selection_among_all_that_were_sampled() -> None:
    """Of samples with β, a selection reads the steps that sampling kept."""
    result = {
        "expert": "e", "amateur": "a", "dataset": "d", "sample": {"questions": 20, "steps": 300, "kept_steps": 150},
        "select": {"steps": 150, "kept_steps": 75}, "finetune": {"labels_trained": 32},
        "comparison": {"benchmarks": [], "overall": [], "warnings": []}, "seconds": {},
    }  # fmt: skip
    assert run_lines(result)[1] == "kept 75 of 300 steps (25 %); trained on 32 labels"


def test_the_stages_say_what_they_did_in_a_few_lines() -> None:
    sampled = {
        "questions": 20, "finished_rollouts": 19, "steps": 300, "kept_steps": 150, "single_token_labels": 119,
        "mean_kl": 0.896, "mean_expert_entropy": 0.34, "mean_amateur_entropy": 1.11, "nonfinite_steps": 0,
        "duplicate_questions": 2, "warnings": ["too few"],
    }  # fmt: skip
    assert sample_lines(sampled) == [
        "20 rollouts, 19 of them finished",
        "kept 150 of 300 steps (50 %, mean KL 0.90 nats); 119 labels are one token",
        "mean entropy, nats: expert 0.34, amateur 1.11",
        "2 duplicate questions left out",
        "warning: too few",
    ]
    assert sample_lines({"steps": 4, "kept_steps": 1, "selection": "random"}) == ["kept 1 of 4 steps (25 %)"]
    tuned = {"labels_trained": 32, "steps": 2, "labels": 150, "labels_skipped": 3, "first_loss": 0.5, "last_loss": 0.25}
    assert finetune_lines({**tuned, "adapter_sha256": "ab", "seconds": 6.9}) == [
        "trained on 32 labels in 2 steps, from 150 different ones; 3 left out, with a longer prefix",
        "loss 0.5000 → 0.2500 nats",
        "adapter sha256 ab",
        "time: 7 s",
    ]
    merged = {"base": "e", "dtype": "bfloat16", "mean_kl": 5.6e-8, "top1_agreement": 0.995, "seconds": 2.0}
    assert merge_lines(merged)[1] == (
        "to base + adapter: mean KL 5.6e-08 nats, the same top token at 99.5 % of the steps of the check"
    )
