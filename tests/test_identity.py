"""A finished stage is given back only if nothing that decides has changed; a change is named in words."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from lightreasoner.config import BaselineConfig, EvaluateConfig, FinetuneConfig, MergeConfig, SampleConfig
from lightreasoner.errors import LightReasonerError
from lightreasoner.evaluation.comparison import compare
from lightreasoner.evaluation.evaluate import evaluate
from lightreasoner.runs.files import file_hash
from lightreasoner.samples.baselines import baseline
from lightreasoner.samples.sampling import sample
from lightreasoner.training.finetuning import finetune
from lightreasoner.training.merging import merge

pytestmark = pytest.mark.usefixtures("templates_in_this_process")
Change = Callable[[Path], None]
MACHINE = {"dtype": "float32", "device": "cpu"}


def settings(file: str, **changes: Any) -> Change:
    """Change settings of a JSON file, which is made if it is not there."""

    def change(model: Path) -> None:
        found = json.loads((model / file).read_text()) if (model / file).exists() else {}
        (model / file).write_text(json.dumps(found | changes))

    return change


def text(file: str, old: str, new: str) -> Change:
    """Replace a text in a file; an empty `old` stands for its beginning."""

    def change(model: Path) -> None:
        path = model / file
        content = path.read_text(encoding="utf-8") if path.exists() else ""
        assert old in content
        path.write_text(content.replace(old, new, 1), encoding="utf-8")

    return change


def other_weights(model: Path) -> None:
    content = bytearray((model / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (model / "model.safetensors").write_bytes(bytes(content))


WEIGHTS: dict[str, Change] = {
    "model.safetensors of the {}: other content now": other_weights,
    "stray.safetensors of the {}: not there then": lambda model: (model / "stray.safetensors").write_bytes(b"x"),
    "config.json of the {}: other content now": settings("config.json", rms_norm_eps=1e-5),
}
TOKENIZER: dict[str, Change] = {
    "tokenizer.json of the {}: other content now": text(
        "tokenizer.json", '"add_prefix_space": false', '"add_prefix_space": true'
    ),
    "tokenizer_config.json of the {}: other content now": settings("tokenizer_config.json", add_bos_token=True),
    "special_tokens_map.json of the {}: not there then": settings("special_tokens_map.json", bos_token="<|im_start|>"),
    "added_tokens.json of the {}: not there then": settings("added_tokens.json"),
}
STOPS: dict[str, Change] = {
    "stop tokens: <|im_end|> (2) there, <|im_end|> (2), ! (3) now": settings(
        "generation_config.json", eos_token_id=[2, 3]
    ),
    "stop tokens: <|im_end|> (2) there, <|endoftext|> (0), <|im_end|> (2) now": settings(
        "generation_config.json", eos_token_id=0
    ),
}
TEMPLATE: dict[str, Change] = {
    "the chat template's text behind an answer: ": text(
        "chat_template.jinja", "{% endfor %}", "{% if message.role == 'assistant' %}bye{% endif %}{% endfor %}"
    ),
    "the prompt: ": text("chat_template.jinja", "", "x"),
    'the prompt: "<|im_start|>system': lambda model: (model / "chat_template.jinja").unlink(),
}
HARMLESS: dict[str, Change] = {
    "a comment in the template": text("chat_template.jinja", "", "{# a comment #}"),
    "settings of decoding": settings("generation_config.json", temperature=0.3, do_sample=True, repetition_penalty=2.0),
    "settings of padding": settings("tokenizer_config.json", padding_side="left", model_max_length=7),
    "a text for people": text("README.md", "", "# A model"),
}


@pytest.fixture(scope="module")
def models(random_expert: Path, random_amateur: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("identity")
    shutil.copytree(random_expert, folder / "expert")
    shutil.copytree(random_amateur, folder / "amateur")
    return folder


@pytest.fixture
def expert(models: Path) -> Iterator[Path]:
    """The expert's folder, to be changed; put back afterwards."""
    shutil.copytree(models / "expert", models / "kept")
    yield models / "expert"
    shutil.rmtree(models / "expert")
    (models / "kept").rename(models / "expert")


def sampling(models: Path, **changes: Any) -> SampleConfig:
    pair = {"expert": str(models / "expert"), "amateur": str(models / "amateur")}
    common = {"dataset": "arithmetic", "max_questions": 4, "max_new_tokens": 8, "out": models / "run", **MACHINE}
    return SampleConfig.checked({**pair, **common, **changes})


@pytest.fixture(scope="module")
def sampled(models: Path) -> dict[str, Any]:
    return sample(sampling(models))


def refusal(run: Callable[[], Any]) -> str:
    """The message of a refused command, without a hash in it."""
    with pytest.raises(LightReasonerError) as caught:
        run()
    assert not re.search(r"\b[0-9a-f]{16,}\b", str(caught.value)), caught.value
    return str(caught.value)


@pytest.mark.parametrize("words", [*WEIGHTS, *TOKENIZER, *STOPS, *TEMPLATE])
def test_samples_of_a_changed_expert_are_refused(
    words: str, models: Path, sampled: dict[str, Any], expert: Path
) -> None:
    {**WEIGHTS, **TOKENIZER, **STOPS, **TEMPLATE}[words](expert)
    assert words.format("expert") in refusal(lambda: sample(sampling(models)))


@pytest.mark.parametrize("name", HARMLESS)
def test_what_decides_nothing_may_change(name: str, models: Path, sampled: dict[str, Any], expert: Path) -> None:
    HARMLESS[name](expert)
    assert sample(sampling(models)) == sampled
    again = sampling(models, out=models / f"again {name}")
    sample(again)
    first, second = (sorted((out / "sample").glob("*.parquet")) for out in (models / "run", again.out))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_samples_of_a_changed_amateur_or_data_file_are_refused(models: Path, sampled: dict[str, Any]) -> None:
    path = models / "amateur" / "model.safetensors"
    kept = path.read_bytes()
    other_weights(models / "amateur")
    assert "model.safetensors of the amateur: other content now" in refusal(lambda: sample(sampling(models)))
    path.write_bytes(kept)
    file = models / "my.jsonl"
    mine = sampling(models, dataset=str(file), out=models / "mine")
    file.write_text(json.dumps({"question": "What is 2 + 2?"}))
    sample(mine)
    file.write_text(json.dumps({"question": "What is 2 + 3?"}))
    assert f"the questions of {file}: other content now" in refusal(lambda: sample(mine))


def test_a_stop_text_of_the_user_is_remembered(models: Path, sampled: dict[str, Any]) -> None:
    assert "stop_strings: [] there, Human: now" in refusal(lambda: sample(sampling(models, stop_strings=["Human:"])))


def test_answers_and_choices_of_a_changed_model_are_refused(models: Path, expert: Path) -> None:
    choice = {"id": "1", "question": "What is hot?", "choices": {"text": ["ice", "fire"], "label": ["A", "B"]}}
    (models / "arc_challenge").mkdir()
    (models / "arc_challenge/test.jsonl").write_text(json.dumps({**choice, "answerKey": "B"}))

    def of(*benchmarks: str, **changes: Any) -> EvaluateConfig:
        common = {"model": str(expert), "max_items": 2, "max_answer_tokens": 4, "prompts": "both", "out": models / "e"}
        return EvaluateConfig.checked(
            {**common, "benchmarks": benchmarks, "grading_workers": 1, "data_dir": models, **MACHINE, **changes}
        )

    answers, choices = of("arithmetic"), of("arc_challenge")
    contrast = of("arithmetic", contrast_with=str(models / "amateur"), out=models / "contrast")
    before = evaluate(answers)
    evaluate(choices)
    evaluate(contrast)
    kept = {path.name: path.read_bytes() for path in expert.iterdir() if path.is_file()}

    def mend() -> None:
        for path in expert.iterdir():
            path.unlink()
        for name, content in kept.items():
            (expert / name).write_bytes(content)

    for words, change in {**WEIGHTS, **TOKENIZER}.items():
        change(expert)
        assert words.format("model") in refusal(lambda: evaluate(answers))
        assert words.format("model") in refusal(lambda: evaluate(choices))
        mend()
    for words, change in STOPS.items():
        change(expert)
        assert words in refusal(lambda: evaluate(answers))
        assert words in refusal(lambda: evaluate(contrast))
        evaluate(choices)  # nothing is generated
        mend()
    other_weights(models / "amateur")
    line = refusal(lambda: evaluate(contrast))
    other_weights(models / "amateur")
    assert "model.safetensors of the contrast with: other content now" in line
    assert evaluate(answers) == before


def test_baselines_of_a_changed_model_are_refused(models: Path, expert: Path) -> None:
    common = {"model": str(expert), "dataset": "arithmetic", "max_questions": 2, "max_new_tokens": 4, **MACHINE}
    config = BaselineConfig.checked({**common, "kind": "ground-truth", "out": models / "baseline"})
    baseline(config)
    for words, change in {**WEIGHTS, **TOKENIZER, **STOPS}.items():
        copy = {path.name: path.read_bytes() for path in expert.iterdir() if path.is_file()}
        change(expert)
        assert words.format("expert") in refusal(lambda: baseline(config))
        for path in expert.iterdir():
            path.unlink()
        for name, content in copy.items():
            (expert / name).write_bytes(content)
    assert "stop_strings" in refusal(lambda: baseline(config.model_copy(update={"stop_strings": ("Human:",)})))


def test_a_training_or_merge_of_other_weights_labels_or_stop_tokens_is_refused(
    models: Path, sampled: dict[str, Any], expert: Path
) -> None:
    run = models / "tuned"
    tuning = FinetuneConfig.checked(
        {"model": str(expert), "data": models / "run", "out": run, "steps": 1, "labels_per_step": 2, **MACHINE}
    )
    result = finetune(tuning)
    merging = MergeConfig.checked({"model": str(expert), "adapter": run, "out": run / "merged", **MACHINE})
    merged = merge(merging)
    assert finetune(tuning) == result
    assert merge(merging) == merged

    kept = (expert / "generation_config.json").read_bytes()
    settings("generation_config.json", eos_token_id=[2, 3])(expert)
    assert finetune(tuning) == result, "training stops nowhere"
    assert "generation_config.json of the base: other content now" in refusal(lambda: merge(merging))
    (expert / "generation_config.json").write_bytes(kept)

    shutil.copytree(models / "run", models / "other labels")
    shard = models / "other labels/sample/steps-00000.parquet"
    rows = pq.read_table(shard)
    pq.write_table(rows.slice(1), shard)
    _commit_again(shard)
    other = tuning.model_copy(update={"data": models / "other labels"})
    assert "the labels in the samples: other content now" in refusal(lambda: finetune(other))

    other_weights(expert)
    assert "model.safetensors of the model: other content now" in refusal(lambda: finetune(tuning))
    assert "model.safetensors of the model: other content now" in refusal(lambda: merge(merging))


def _commit_again(shard: Path) -> None:
    """Write the hash of a changed shard into its ledger."""
    ledger = shard.with_name("ledger.jsonl")
    entries = [json.loads(line) for line in ledger.read_text().splitlines()]
    entries[0]["files"][shard.name]["sha256"] = file_hash(shard)
    for entry in entries:
        del entry["check"]
    ledger.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


# --- A template with a date ---

DATED = "{% if strftime_now is defined %}Today: {{ strftime_now('%d %b %Y') }}\n{% endif %}"


@pytest.fixture
def on_day(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Set the clock to a day of March 2026."""

    def set_clock(day: int) -> None:
        class Clock(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Any:
                return datetime(2026, 3, day, 12, tzinfo=tz)

        monkeypatch.setattr("lightreasoner.runs.manifest.datetime", Clock)

    return set_clock


def prompts(folder: Path) -> set[str]:
    manifest = json.loads((folder / "manifest.json").read_text())
    return set(re.findall(r"Today: (.+?)\\n", json.dumps(manifest["fingerprint"])))


def differences_told(before: Path, after: Path) -> list[str]:
    """Warnings of a comparison about how the two were made, not about how long the answers are."""
    return [text for text in compare(before, after)["warnings"] if "cut off" not in text]


def test_a_dated_run_goes_on_with_its_own_date_and_asks_both_models_with_it(
    models: Path, expert: Path, on_day: Callable[[int], None]
) -> None:
    text("chat_template.jinja", "", DATED)(expert)
    run = models / "dated"
    config = sampling(models, out=run, divergence_beta=None)
    tuning = FinetuneConfig.checked(
        {"model": str(expert), "data": run, "out": run, "steps": 1, "labels_per_step": 2, **MACHINE}
    )
    merging = MergeConfig.checked({"model": str(expert), "adapter": run, "out": run / "merged", **MACHINE})

    def of(model: Path, out: Path) -> EvaluateConfig:
        common = {"benchmarks": ["arithmetic"], "max_items": 2, "max_answer_tokens": 4, "grading_workers": 1}
        return EvaluateConfig.checked({**common, "model": str(model), "out": out, **MACHINE})

    on_day(1)
    sampled = sample(config)
    on_day(2)
    before = evaluate(of(expert, run / "evaluate/expert"))
    on_day(3)
    assert sample(config) == sampled
    finetune(tuning)
    merge(merging)
    evaluate(of(run / "merged", run / "evaluate/merged"))
    on_day(4)
    assert evaluate(of(expert, run / "evaluate/expert")) == before
    for folder in ("sample", "evaluate/expert/chat/arithmetic/answers", "evaluate/merged/chat/arithmetic/answers"):
        assert prompts(run / folder) == {"01 Mar 2026"}, folder
    assert differences_told(run / "evaluate/expert", run / "evaluate/merged") == []

    evaluate(of(expert, models / "later"))
    assert differences_told(run / "evaluate/expert", models / "later") == [
        "arithmetic: different prompt (dates), which may be part of the difference"
    ]
    text("chat_template.jinja", "Today", "Now")(expert)
    assert "the prompt: " in refusal(lambda: sample(config))
    assert "the prompt: " in refusal(lambda: evaluate(of(expert, run / "evaluate/expert")))


def test_a_dated_stage_that_was_stopped_goes_on_the_next_day(
    models: Path, expert: Path, on_day: Callable[[int], None]
) -> None:
    text("chat_template.jinja", "", DATED)(expert)
    whole, parts = (sampling(models, out=models / name, batch_size=1) for name in ("whole", "parts"))
    on_day(1)
    sample(whole)
    sample(parts)
    stopped = models / "parts/sample"
    (stopped / "result.json").unlink()
    lines = (stopped / "ledger.jsonl").read_text().splitlines(keepends=True)
    (stopped / "ledger.jsonl").write_text(lines[0])
    on_day(2)
    assert sample(parts) == sample(whole)
    for path in (models / "whole/sample").glob("*.parquet"):
        assert (stopped / path.name).read_bytes() == path.read_bytes()
