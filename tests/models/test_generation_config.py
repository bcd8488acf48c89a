"""Settings of generation that contradict each other do not stop a model from being used."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lightreasoner.config.sections import MachineSettings
from lightreasoner.errors import ModelError
from lightreasoner.models.generation_config import generation_settings
from lightreasoner.models.loading import load_model
from lightreasoner.models.source import find_model

CONTRADICTIONS: list[tuple[dict[str, Any], list[str]]] = [
    ({"do_sample": False, "temperature": 0.9, "eos_token_id": [2, 3]}, ["temperature"]),  # as in Llama-2-chat
    ({"temperature": 0.9, "top_p": 0.6, "eos_token_id": 2}, ["temperature", "top_p"]),
    ({"num_return_sequences": 4, "eos_token_id": 2}, ["num_return_sequences"]),
    ({"num_beams": 1, "length_penalty": 2.0, "pad_token_id": 0}, ["length_penalty"]),
    ({"early_stopping": "perhaps"}, ["early_stopping"]),
    ({"max_new_tokens": -3, "do_sample": True, "temperature": 0.5}, ["max_new_tokens"]),
    ({"cache_implementation": "none_such", "eos_token_id": 5}, ["cache_implementation"]),
    ({"compile_config": {"backend": "x"}}, ["compile_config"]),
    ({"output_scores": True}, ["output_scores"]),
]


@pytest.mark.parametrize(("given", "dropped"), CONTRADICTIONS)
def test_settings_that_contradict_others_are_dropped_and_the_rest_kept(
    given: dict[str, Any], dropped: list[str], random_expert: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(random_expert, folder)
    (folder / "generation_config.json").write_text(json.dumps(given))
    settings, left_out = generation_settings("model", folder)
    assert settings is not None
    assert left_out == dropped
    kept = {name: value for name, value in given.items() if name not in dropped}
    assert {name: getattr(settings, name) for name in kept} == kept
    loaded = load_model(find_model(str(folder)), MachineSettings(dtype="float32", device="cpu"))
    assert loaded.generation_config is not None
    assert loaded.generation_config.eos_token_id == given.get("eos_token_id")
    loaded.generation_config.save_pretrained(tmp_path)


def test_settings_that_need_each_other_are_kept_in_any_order(tmp_path: Path) -> None:
    given = {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "length_penalty": 0.5, "num_beams": 2}
    (tmp_path / "generation_config.json").write_text(json.dumps(given))
    settings, left_out = generation_settings("model", tmp_path)
    assert left_out == []
    assert {name: getattr(settings, name) for name in given} == given


@pytest.mark.parametrize("content", ["", "{", "[]", "3"])
def test_a_file_that_cannot_be_read_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(ModelError, match="not a JSON object, and it names the stop tokens"):
        generation_settings("model", tmp_path)


@pytest.mark.parametrize("stops", ["</s>", ["</s>"], 2.5, True, {"a": 1}, -1, [2, -1]])
def test_stop_tokens_are_numbers(stops: object, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))
    with pytest.raises(ModelError, match="must be the number of a token"):
        generation_settings("model", tmp_path)


def test_a_model_without_the_file_has_the_stop_tokens_of_its_config(random_expert: Path, tmp_path: Path) -> None:
    shutil.copytree(random_expert, tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").unlink()
    assert generation_settings("model", tmp_path / "model") == (None, [])
    loaded = load_model(find_model(str(tmp_path / "model")), MachineSettings(dtype="float32", device="cpu"))
    config = json.loads((random_expert / "config.json").read_text())
    assert loaded.generation_config is not None
    assert loaded.generation_config.eos_token_id == config["eos_token_id"]
