"""A run folder resumes only with the same settings; equal settings give equal bytes."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from .harness import contents, refused, succeed


def changed(arguments: tuple[object, ...], **flags: object) -> tuple[object, ...]:
    """The command with changed or added flags, before the final `--out`."""
    words = list(arguments)
    for name, value in flags.items():
        flag = f"--{name.replace('_', '-')}"
        if flag in words:
            words[words.index(flag) + 1] = value
        else:
            words[-1:-1] = [flag, value]
    return tuple(words)


@pytest.mark.parametrize(
    ("flags", "fields"),
    [
        ({"expert": "miniature/small"}, ["expert:", "model.safetensors of the expert: other content now"]),
        ({"amateur": "miniature/base"}, ["amateur:", "model.safetensors of the amateur: other content now"]),
        ({"expert_revision": "v2"}, ['expert_revision: null there, "v2" now']),
        ({"dtype": "bfloat16"}, ['dtype: "float32" there, "bfloat16" now']),
        ({"plausibility_alpha": 0.3}, ["plausibility_alpha: 0.2 there, 0.3 now"]),
        ({"divergence_beta": 0.5}, ["divergence_beta: 0.4 there, 0.5 now"]),
        ({"cue": "Think."}, ["cue:", "the prompt:"]),
        ({"max_new_tokens": 11, "max_questions": 47}, ["max_new_tokens: 10 there, 11 now", "questions: 48 there"]),
        ({"seed": 7}, ["the questions of arithmetic:", "seed: 42 there, 7 now"]),
    ],
)
def test_samples_with_other_settings_are_refused_with_the_fields(
    flags: dict[str, Any], fields: list[str], sampling: tuple[object, ...], sampled: Path
) -> None:
    before = contents(sampled)
    line = refused(*changed(sampling, **flags), sampled)
    assert "was made with other settings" in line
    assert all(field in line for field in fields), line
    assert contents(sampled) == before


def test_a_model_with_the_same_name_and_other_weights_is_refused(
    sampling: tuple[object, ...], random_expert: Path, tmp_path: Path
) -> None:
    model, out = tmp_path / "model", tmp_path / "run"
    shutil.copytree(random_expert, model)
    arguments = changed(sampling, expert=model, max_questions=4)
    succeed(*arguments, out)
    weights = load_file(model / "model.safetensors")
    save_file({name: 1.01 * value for name, value in weights.items()}, model / "model.safetensors", {"format": "pt"})
    line = refused(*arguments, out)
    assert "model.safetensors of the expert: other content now" in line
    assert 'expert: "' not in line
    assert "tokenizer" not in line


def test_a_changed_template_or_data_file_is_refused(sampling: tuple[object, ...], tmp_path: Path) -> None:
    problems, template, out = tmp_path / "p.jsonl", tmp_path / "t.jinja", tmp_path / "run"
    problems.write_text(json.dumps({"question": "What is 2 + 2?"}))
    template.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    arguments = changed(sampling, dataset=problems, chat_template=template)
    succeed(*arguments, out)
    template.write_text("{% for m in messages %}{{ m.role }}> {{ m.content }}\n{% endfor %}")
    line = refused(*arguments, out)
    assert "the prompt: " in line
    assert "the questions" not in line
    problems.write_text(json.dumps({"question": "What is 2 + 3?"}))
    assert f"the questions of {problems}: other content now" in refused(*arguments, out)


def test_stop_tokens_are_remembered_and_named(
    sampling: tuple[object, ...], evaluating: tuple[object, ...], random_expert: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(random_expert, model)
    (model / "generation_config.json").write_text('{"eos_token_id": [2, 21]}')
    samples = changed(sampling, expert=model, max_questions=4), tmp_path / "run"
    answers = changed(evaluating, model=model, max_items=2), tmp_path / "answers"
    for arguments, out in (samples, answers):
        succeed(*arguments, out)
    (model / "generation_config.json").write_text('{"eos_token_id": 2}')
    for arguments, out in (samples, answers):
        before = contents(out)
        assert re.search(
            r"stop tokens: <\|im_end\|> \(2\), \S+ \(21\) there, <\|im_end\|> \(2\) now", refused(*arguments, out)
        )
        assert contents(out) == before


def test_a_refused_command_can_be_mended_in_the_same_folder(sampling: tuple[object, ...], tmp_path: Path) -> None:
    few = changed(sampling, max_questions=4)
    assert "all 4 questions are longer" in refused(*changed(few, max_new_tokens=600), tmp_path)
    assert "Lower --divergence-beta" in refused(*changed(few, divergence_beta=50), tmp_path)
    assert "plausibility_alpha" in refused(*changed(few, plausibility_alpha=7), tmp_path, code=2)
    succeed(*few, tmp_path)
    assert "divergence_beta: 0.4 there, 50.0 now" in refused(*changed(few, divergence_beta=50), tmp_path)


def test_tuning_with_other_settings_or_samples_is_refused(
    tuning: tuple[object, ...], tuned: Path, sampling: tuple[object, ...], tmp_path: Path
) -> None:
    before = contents(tuned)
    line = refused(*changed(tuning, learning_rate=1e-4, lora_rank=4), tuned)
    assert "learning_rate: 0.001 there, 0.0001 now" in line
    assert "lora_rank: 8 there, 4 now" in line
    succeed(*changed(sampling, divergence_beta=0.5, max_questions=8), tmp_path / "other")
    assert "samples.divergence_beta" in refused(*changed(tuning, data=tmp_path / "other"), tuned)
    assert contents(tuned) == before


def test_an_evaluation_with_other_settings_is_refused(evaluating: tuple[object, ...], evaluated: Path) -> None:
    before = contents(evaluated)
    assert "max_answer_tokens: 10 there, 11 now" in refused(*changed(evaluating, max_answer_tokens=11), evaluated)
    assert "model.safetensors of the model: other content now" in refused(
        *changed(evaluating, model="miniature/expert"), evaluated
    )
    assert contents(evaluated) == before


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(
    sampling: tuple[object, ...], evaluating: tuple[object, ...], evaluated: Path, tmp_path: Path
) -> None:
    warm = changed(sampling, temperature=1.0, seed=3, max_questions=16)
    for name in ("first", "second"):
        succeed(*warm, tmp_path / name)
        succeed(*evaluating, tmp_path / name)
    first, second = (contents(tmp_path / name) for name in ("first", "second"))
    shards = [name for name in first if name.endswith(".parquet")]
    assert len(shards) == 4 * 2 + 10 + 1
    assert {name: first[name][0] for name in shards} == {name: second[name][0] for name in shards}
    answers = "chat/arithmetic/answers/answers-00000.parquet"
    assert first[answers][0] == (evaluated / answers).read_bytes()
    succeed(*changed(warm, seed=4), tmp_path / "third")
    assert contents(tmp_path / "third")["sample/rollouts-00000.parquet"][0] != first["sample/rollouts-00000.parquet"][0]
