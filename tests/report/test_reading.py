"""The report says what the files of the run say, and nothing that they do not."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from lightreasoner import pipeline
from lightreasoner.config import RunConfig
from lightreasoner.errors import DataError
from lightreasoner.evaluation.folder import read_evaluation
from lightreasoner.evaluation.judging import read_judged
from lightreasoner.recipes import load_recipe
from lightreasoner.report import markdown, report, write_figures, write_page
from lightreasoner.report.browser import read_blocks
from lightreasoner.report.tokens import TokenTexts, find_texts, visible
from lightreasoner.runs.records import Answer, Rollout, StepSample
from lightreasoner.runs.stage import read_stage
from lightreasoner.samples.statistics import KlHistogram, echoes, is_scattered

from ..made_up import made_up_rollout, write_samples

Rows = tuple[list[Rollout], dict[tuple[str, int], StepSample]]


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of the miniature, cut short."""
    out = tmp_path_factory.mktemp("small") / "run"
    recipe = load_recipe("miniature")
    recipe["sample"] |= {"max_questions": 40}
    recipe["finetune"] |= {"steps": 12, "logging_steps": 2}
    recipe["evaluate"] |= {"max_items": 40}
    pipeline.run(RunConfig.checked({**recipe, "out": out}))
    return out


def rows_of(run: Path) -> Rows:
    _, stage = read_stage(run / "sample")
    rollouts = [row for table in stage.tables("rollouts") for row in Rollout.rows(table)]
    steps = [row for table in stage.tables("steps") for row in StepSample.rows(table)]
    return rollouts, {(step.question_id, step.position): step for step in steps}


def test_a_run_ends_with_its_report(small_run: Path) -> None:
    page = (small_run / "report.html").read_text()
    found = report(small_run)
    assert found.verdict.replace(" %", "\u00a0%") in page.replace("&lt;", "<")
    assert found.missing == ()
    assert str(Path.cwd()) not in found.verdict


def test_accuracies_are_those_of_the_summary(small_run: Path) -> None:
    summary = json.loads((small_run / "summary.json").read_text())
    found = report(small_run)
    (row,) = found.accuracies
    for score, key in ((row.before, "evaluate_before"), (row.after, "evaluate_after")):
        figures = summary[key]["chat/arithmetic"]
        assert score is not None
        assert (score.value, score.low, score.high, row.total) == tuple(
            figures[name] for name in ("accuracy", "low", "high", "total")
        )
    assert json.loads(json.dumps(row.test)) == summary["comparison"]["benchmarks"][0]
    assert found.cost.seconds == summary["seconds"]
    assert found.cost.sampling_and_tuning == summary["seconds"]["sample"] + summary["seconds"]["finetune"]
    assert found.cost.problems == summary["sample"]["questions"] == 40
    assert found.cost.tuned_tokens == summary["finetune"]["labels_trained"] == 12 * 16
    assert found.cost.gain == pytest.approx(100 * summary["comparison"]["benchmarks"][0]["gain"])
    log = json.loads((small_run / "finetune" / "log.json").read_text())
    assert [dict(entry) for entry in found.training] == [entry for entry in log if "loss" in entry]
    assert len(found.training) == 6
    cells = re.findall(r'<td class="n">(.*?)</td>', (small_run / "report.html").read_text())
    for key in ("before", "after"):
        assert any(cell.startswith(f"{100 * row.test[key]:.1f} (") for cell in cells)
    assert f"{100 * row.test['gain']:+.1f} ({100 * row.test['low']:+.1f} to {100 * row.test['high']:+.1f})" in cells


def test_label_statistics_are_those_of_the_rows(small_run: Path) -> None:
    rollouts, steps = rows_of(small_run)
    labels = report(small_run).labels
    assert labels is not None
    kl = np.array([value for row in rollouts for value in row.kl])
    agrees = np.array(
        [
            ours[0] == theirs[0]
            for row in rollouts
            for ours, theirs in zip(row.expert_top_ids, row.amateur_top_ids, strict=True)
        ]
    )
    kept = np.array([(row.question_id, at) in steps for row in rollouts for at in range(len(row.kl))])
    assert (labels.rollouts, labels.steps, labels.kept) == (len(rollouts), len(kl), len(steps))
    assert labels.finished == sum(row.finished for row in rollouts)
    assert labels.below_tenth == pytest.approx((kl < 0.1).mean())
    assert labels.above_beta == pytest.approx((kl > 0.4).mean()) == pytest.approx(kept.mean())
    assert labels.mean_kl_agree == pytest.approx(kl[agrees].mean())
    assert labels.mean_kl_disagree == pytest.approx(kl[~agrees].mean())
    assert labels.agree == pytest.approx(agrees.mean())
    assert labels.agree_above_beta == pytest.approx(kept[agrees].mean())
    assert labels.single_token == pytest.approx(np.mean([len(step.token_ids) == 1 for step in steps.values()]))
    assert labels.mean_support == pytest.approx(np.mean([len(step.token_ids) for step in steps.values()]))
    entropies = [-sum(w * math.log(w) for w in step.weights if w) for step in steps.values()]
    assert labels.mean_entropy == pytest.approx(np.mean(entropies), abs=1e-6)
    for place in range(20):
        inside = (kl >= place / 10) & (kl < (place + 1) / 10)
        assert labels.histogram[place] == pytest.approx((inside | ((kl < 0) & (place == 0))).mean())
    assert labels.histogram[20] == pytest.approx((kl >= 2).mean())
    assert labels.tail == pytest.approx(
        [((kl >= 2 + place / 5 - 1e-9) & (kl < 2.2 + place / 5 - 1e-9)).mean() for place in range(14)]
    )
    assert labels.kept_at[0] == pytest.approx(np.mean([(row.question_id, 0) in steps for row in rollouts]))
    assert sum(labels.supports) == len(steps)


def test_promoted_and_demoted_tokens_add_up_label_minus_expert(small_run: Path) -> None:
    rollouts, steps = rows_of(small_run)
    texts = find_texts([("miniature/expert", None)])
    mass: dict[str, float] = {}
    by_id = {row.question_id: row for row in rollouts}
    for (question, position), step in steps.items():
        row = by_id[question]
        expert = dict(zip(row.expert_top_ids[position], row.expert_top_logprobs[position], strict=True))
        expert |= dict(zip(step.token_ids, step.expert_logprobs, strict=True))
        label = dict(zip(step.token_ids, step.weights, strict=True))
        for token, logprob in expert.items():
            moved = label.get(token, 0) - math.exp(logprob)
            if moved > 0:
                mass[texts.token(token).text] = mass.get(texts.token(token).text, 0) + moved
    labels = report(small_run).labels
    assert labels is not None
    best = sorted(mass.values(), reverse=True)[: len(labels.promoted)]
    assert [token.mass for token in labels.promoted] == pytest.approx(best, rel=1e-4)
    assert all(token.mass < 0 for token in labels.demoted)


def test_the_browser_has_every_step_of_the_rows(small_run: Path) -> None:
    rollouts, steps = rows_of(small_run)
    blocks = dict(read_blocks((small_run / "report.html").read_bytes()))
    facts = blocks["browser"]
    text_of = dict(zip(facts["ids"], facts["texts"], strict=True))
    index = [entry for number in range(facts["blocks"]) for entry in blocks[f"index-{number}"]]
    details = [entry for number in range(facts["blocks"]) for entry in blocks[f"block-{number}"]]
    assert len(index) == len(details) == len(rollouts) == facts["rollouts"]
    for row, entry, detail in zip(rollouts, index, details, strict=True):
        assert entry["q"] == row.question
        assert entry["k"] == [round(1000 * value) for value in row.kl]
        assert detail["t"] == row.response_ids
        assert detail["he"] == [round(1000 * value) for value in row.expert_entropy]
        assert detail["ai"] == row.amateur_top_ids
        for shares, logprobs in ((detail["ep"], row.expert_top_logprobs), (detail["ap"], row.amateur_top_logprobs)):
            assert shares == [[round(10_000 * math.exp(value)) for value in top] for top in logprobs]
        for at, flag in enumerate(map(int, entry["f"])):
            step = steps.get((row.question_id, at))
            assert bool(flag & 1) == (step is not None) == (str(at) in detail["l"])
            assert bool(flag & 2) == (row.expert_top_ids[at][0] == row.amateur_top_ids[at][0]) != bool(flag & 4)
            if step is not None:
                label = detail["l"][str(at)]
                weights = dict(zip(step.token_ids, step.weights, strict=True))
                assert dict(zip(label["i"], label["w"], strict=True)) == {
                    token: round(10_000 * weight) for token, weight in weights.items()
                }
                inside = [token for token in row.expert_top_ids[at] if token in weights]
                assert row.expert_top_ids[at][: detail["m"][at]] == inside
    texts = find_texts([("miniature/expert", None)])
    assert text_of == {token: texts.token(token).text for token in text_of}


def test_cases_are_items_whose_verdict_changed(small_run: Path) -> None:
    sides = [read_evaluation(small_run / "evaluate" / name)[0] for name in ("expert", "merged")]
    verdicts = [{row.question_id: row.verdict == "correct" for row in read_judged(side.decisive)} for side in sides]
    answers = [
        {row.question: row for table in side.stage.tables("answers") for row in Answer.rows(table)} for side in sides
    ]
    gained = [item for item in verdicts[0] if verdicts[1][item] and not verdicts[0][item]]
    cases = report(small_run).cases
    assert (cases.gained, cases.lost) == (
        len(gained),
        sum(verdicts[0][item] and not verdicts[1][item] for item in verdicts[0]),
    )
    assert cases.became_right or cases.became_wrong
    for case in (*cases.became_right, *cases.became_wrong):
        for shown, rows in ((case.before, answers[0]), (case.after, answers[1])):
            text = shown.shared + shown.diverging + shown.rest
            assert text.removesuffix("<|im_end|>") == rows[case.question].output
        one, other = (rows[case.question].output_ids for rows in answers)
        assert case.diverges_at is not None
        assert one[: case.diverges_at] == other[: case.diverges_at]
        assert one[case.diverges_at] != other[case.diverges_at]
        assert case.before.correct != case.after.correct


def test_cost_and_label_figures_on_the_page_are_the_reports(small_run: Path) -> None:
    found = report(small_run)
    html = (small_run / "report.html").read_text()
    facts = {
        re.sub(r"<.*?>", "", name): re.sub(r"<.*?>", " ", value).strip()
        for name, value in re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", html)
    }
    labels, cost = found.labels, found.cost
    assert labels is not None
    assert facts["labels"] == str(labels.kept)
    assert facts["Steps kept"].split() == [str(labels.kept), "of", f"{labels.steps:,}"]
    assert facts["Problems"].split()[0] == str(cost.problems)
    assert facts["Tuned tokens"] == str(cost.tuned_tokens)
    assert facts["Gain"].startswith(f"{cost.gain:+.1f} points")
    assert facts["tokens generated in rollouts"] == f"{cost.generated_tokens:,}"
    assert facts["tokens scored, both models"] == f"{cost.scored_tokens:,}"
    assert facts["rollouts ended with a stop token"] == f"{labels.finished} of {labels.rollouts}"
    for name, value in (
        ("of one token", labels.single_token),
        ("top-1 tokens agree", labels.agree),
        ("kept where they agree", labels.agree_above_beta),
    ):
        assert facts[name] == f"{100 * value:.1f} %"
    for name, value in (
        ("tokens in a label, mean", labels.mean_support),
        ("label entropy, mean", labels.mean_entropy),
        ("mean KL where they agree", labels.mean_kl_agree),
        ("mean KL where they differ", labels.mean_kl_disagree),
    ):
        assert facts[name].split()[0] == f"{value:.3f}"
    for name, seconds in cost.seconds.items():
        assert facts[name.replace("_", " ")] == f"{seconds:.0f} s"
    sizes = re.search(r"<h3>Tokens in a label</h3>.*?</table>", html, re.DOTALL)
    assert sizes is not None
    assert re.findall(r'<td class="n">(.*?)</td>', sizes[0]) == [f"{count:,}" for count in labels.supports]


def test_markdown_and_json_say_the_same(small_run: Path) -> None:
    found = report(small_run)
    values = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert values["labels"]["kept"] == found.labels.kept
    assert values["accuracies"][0]["after"]["value"] == found.accuracies[0].after.value
    text = markdown(found)
    row = found.accuracies[0]
    assert f"{100 * row.before.value:.1f} ({100 * row.before.low:.1f} to {100 * row.before.high:.1f})" in text
    assert f"| {found.labels.kept:,}" in text
    assert f"{found.cost.scored_tokens:,} scored" in text
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    for at, (steps, kept) in enumerate(zip(found.labels.steps_at, found.labels.kept_at, strict=True)):
        assert [str(at), f"{steps:,}", f"{100 * kept:.1f} %"] in cells
    for n, labels in enumerate(found.labels.supports[:-1], 1):
        assert [str(n), f"{labels:,}"] in cells
    assert found.commands[0] in text
    assert all(name in text for name in found.settings)


def test_figures_of_a_run_carry_its_numbers(small_run: Path, tmp_path: Path) -> None:
    files = write_figures(small_run, tmp_path / "figures")
    assert {file.suffix for file in files} == {".svg", ".png", ".csv", ".json"}
    found = report(small_run)
    shares = json.loads(next(f for f in files if f.name == "figure-2-kl-histogram.json").read_text())
    assert tuple(row["share"] for row in shares[:21]) == found.labels.histogram
    bars = json.loads(next(f for f in files if f.name == "figure-5-accuracies.json").read_text())
    assert bars[0]["after"] == found.accuracies[0].after.value
    curves = json.loads(next(f for f in files if f.name == "figure-8-9-training.json").read_text())
    assert [row["loss"] for row in curves] == [row["loss"] for row in found.training]
    rollouts, _ = rows_of(small_run)
    along = json.loads(next(f for f in files if f.name == "figure-3-kl-along-rollouts.json").read_text())
    drawn = [row["kl"] for row in along if row["segment"] == 1]
    assert any(row.kl[: len(drawn)] == pytest.approx(drawn) for row in rollouts)


def copy_of(run: Path, folder: Path, *names: str) -> Path:
    for name in names:
        (shutil.copytree if (run / name).is_dir() else shutil.copy)(run / name, folder / name)
    return folder


@pytest.mark.parametrize(
    ("kept", "says", "never"),
    [
        (("sample",), "40 problems of arithmetic were sampled from miniature/expert", "Accuracy"),
        (("sample", "finetune"), "was fine-tuned on 192 labels", "Accuracy"),
        (("evaluate",), "made no detectable difference|raised|lowered", "Token by token"),
        (("finetune",), "was fine-tuned on 192 labels", "Token by token"),
    ],
)
def test_a_part_of_a_run_gets_a_report_of_what_is_there(
    small_run: Path, tmp_path: Path, kept: tuple[str, ...], says: str, never: str
) -> None:
    part = tmp_path / "part"
    part.mkdir()
    copy_of(small_run, part, *kept)
    found = report(part)
    assert re.search(says, found.verdict), found.verdict
    assert found.missing
    write_page(part)
    page = (part / "report.html").read_text()
    assert f"<h2>{never}</h2>" not in page
    assert "Not in this report" in page
    assert markdown(found)


def test_nothing_to_report_and_an_unfinished_stage_are_said(small_run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds nothing to report"):
        report(tmp_path)
    part = tmp_path / "part"
    part.mkdir()
    copy_of(small_run, part, "sample", "finetune")
    (part / "finetune" / "result.json").unlink()
    found = report(part)
    assert found.cost.tuned_tokens is None
    assert any("not finished" in text for text in found.missing)


def test_imported_samples_have_a_report(small_run: Path, tmp_path: Path) -> None:
    from lightreasoner.samples.jsonl import export_samples, import_samples

    export_samples(small_run, tmp_path / "samples.jsonl")
    import_samples(tmp_path / "samples.jsonl", tmp_path / "imported", expert="miniature/expert")
    found = report(tmp_path / "imported")
    _, steps = rows_of(small_run)
    assert found.labels.kept == len(steps)
    assert found.labels.steps == 0
    assert found.labels.histogram == ()
    assert found.labels.mean_support == pytest.approx(np.mean([len(step.token_ids) for step in steps.values()]))
    write_page(tmp_path / "imported")
    blocks = dict(read_blocks((tmp_path / "imported" / "report.html").read_bytes()))
    known = [kl for entry in blocks["index-0"] for kl in entry["k"] if kl is not None]
    assert set(known) <= {round(1000 * step.kl) for step in steps.values()}


def test_without_a_tokenizer_ids_stand_for_the_tokens(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write_samples(tmp_path, [made_up_rollout(0, "How many?", [5, 6, 7], 600, rng)], None)
    found = report(tmp_path)
    assert any("no tokenizer" in text for text in found.missing)
    write_page(tmp_path)
    blocks = dict(read_blocks((tmp_path / "report.html").read_bytes()))
    assert "⟨5⟩" in blocks["browser"]["texts"]


def test_no_character_acts_on_a_terminal_or_a_page() -> None:
    assert visible("a\x1b[31m\r\x00b\u202e\u2028\u200dc\n\td é😀") == (
        "a⟨U+001B⟩[31m⟨U+000D⟩⟨U+0000⟩b⟨U+202E⟩⟨U+2028⟩⟨U+200D⟩c\n\td é😀"
    )


def test_parts_of_characters_are_shown_as_bytes_and_whole_ones_as_themselves(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    texts = TokenTexts(Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()))
    ids = tokenizer("a 😀", add_special_tokens=False)["input_ids"]
    assert texts.join(ids) == "a 😀"
    shown = [texts.token(index).text for index in ids]
    assert shown[-4:] == ["⟨F0⟩", "⟨9F⟩", "⟨98⟩", "⟨80⟩"]
    assert texts.token(10**6).text == "⟨1000000⟩"
    assert texts.join(ids[:-1]).endswith("⟨F0 9F 98⟩")


def test_sentencepiece_tokens_lose_their_marks() -> None:
    tokenizer = Tokenizer(models.BPE({"▁the": 0, "<0xE2>": 1, "a": 2}, []))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    texts = TokenTexts(tokenizer)
    assert [texts.token(index).text for index in range(3)] == [" the", "⟨E2⟩", "a"]


def test_junk_labels_are_found_with_their_places(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    head = list(range(100, 112))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    answers = [[50, 51, 52, 53], [60, *head[2:11], 61], [50, end, 52, 53], [50, 51, 52, end]]
    rows: list[Any] = []
    for number, response in enumerate(answers):
        rollout, steps = made_up_rollout(number, f"Question {number}?", response, 600, rng)
        rows.append((rollout, steps))
        object.__setattr__(rollout, "prompt_ids", [*head, 200 + number])
    rollout, steps = rows[0]
    step = steps[0] if steps else None
    assert step is not None
    object.__setattr__(step, "kl", 6.285)
    for name, values in (("token_ids", list(range(20))), ("weights", [0.05] * 20)):
        object.__setattr__(step, name, values)
    for name in ("expert_logprobs", "amateur_logprobs"):
        object.__setattr__(step, name, [-3.0] * 20)
    write_samples(tmp_path, rows, tokenizer)
    warnings = {warning.kind: warning for warning in report(tmp_path).labels.warnings}
    places = {kind: [(place.rollout, place.position) for place in one.places] for kind, one in warnings.items()}
    assert places == {"scattered": [(0, step.position)], "echo": [(1, 1)], "past_end": [(2, 1)]}
    assert all(warning.count == 1 for warning in warnings.values())
    write_page(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert f'href="#r-0-{step.position}"' in page
    assert 'href="#r-1-1"' in page


def test_signs_of_junk_by_hand() -> None:
    assert echoes(list(range(10)), [99, *range(1, 9), 99]) == 1
    assert echoes(list(range(10)), [99, *range(1, 8), 99]) is None
    assert is_scattered([0.1] * 10, 4.1)
    assert not is_scattered([0.1] * 10, 3.9)
    assert not is_scattered([0.9, 0.1], 9.0)


def test_bins_hold_their_lower_ends_and_rounding_below_zero() -> None:
    histogram = KlHistogram()
    histogram.add(np.array([-1e-4, 0.0, 0.1, 0.3, 0.7, 1.9999, 2.0, 2.2, 4.7, 4.8, 50.0, np.nan]))
    assert histogram.head[[0, 1, 3, 7, 19, 20]].tolist() == [2, 1, 1, 1, 1, 5]
    assert histogram.tail[[0, 1, 13, 14]].tolist() == [1, 1, 1, 2]
    assert histogram.total == 11


def test_prompts_that_differ_are_one_row_and_the_run_s_own_judge_counts(small_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run / "evaluate", run / "evaluate")
    shutil.copy(small_run / "config.yaml", run)
    (run / "evaluate" / "expert" / "chat").rename(run / "evaluate" / "expert" / "plain")
    (row,) = report(run).accuracies
    assert (str(row.prompts), row.prompts) == ("plain → chat", ("plain", "chat"))
    (values,) = report(run).as_dict()["accuracies"]
    assert (values["prompt"], values["prompts"]) == (None, ("plain", "chat"))
    (values,) = report(small_run).as_dict()["accuracies"]
    assert (values["prompt"], values["prompts"]) == ("chat", ("chat", "chat"))
    assert row.before is not None
    assert row.after is not None
    assert row.test == report(small_run).accuracies[0].test | {
        "prompt": None,
        "prompts": ("plain", "chat"),
        "warnings": row.test["warnings"],
    }
    # Another judge, who finds everything wrong, beside the one that the settings name.
    for place in (run / "evaluate").glob("*/*/arithmetic"):
        shutil.copytree(place / "math-verify", place / "toolkit")
        result = json.loads((place / "toolkit" / "result.json").read_text())
        result["result"] |= {"accuracy": 0.0, "low": 0.0, "high": 0.1}
        (place / "toolkit" / "result.json").write_text(json.dumps(result))
    assert report(run).accuracies[0].after == row.after
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("judge: math-verify", "judge: toolkit"))
    assert report(run).accuracies[0].after.value == 0.0


def test_a_p_value_is_readable_however_small() -> None:
    from lightreasoner.report.tables import p_value

    assert [p_value(value) for value in (1.0, 0.0342, 2.3e-96, 0.0)] == ["1", "0.034", "2e-96", "<1e-300"]
