"""The engine vLLM, its child process run with a stand-in for the package vllm."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from transformers import PreTrainedTokenizerFast

from lightreasoner.errors import EngineError
from lightreasoner.inference import vllm_child, vllm_engine
from lightreasoner.inference.generation import Decoding, until_stop
from lightreasoner.inference.vllm_engine import VllmEngine, VllmModel
from lightreasoner.runs.progress import tokens_counted

from .fake_vllm import token
from .vllm_helpers import FakeVllm

PROMPTS = [[5, 6, 7], [9, 10, 11, 12], [5, 6]]
LENGTH = 12


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVllm]:
    yield FakeVllm(tmp_path / "site", monkeypatch)
    vllm_engine.engine_version.cache_clear()


@pytest.fixture
def engine(fake: FakeVllm, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Iterator[VllmEngine]:
    made = VllmEngine(VllmModel("a model", lambda: tmp_path, "float32", "auto", 10_000), tokenizer)
    yield made
    made.close()


def expected(prompts: list[list[int]], length: int = LENGTH) -> list[list[int]]:
    return [[token(prompt, place) for place in range(length)] for prompt in prompts]


def refusal(engine: VllmEngine) -> str:
    with pytest.raises(EngineError) as caught:
        engine.generate(PROMPTS, Decoding(LENGTH, ()))
    assert engine._child is None, "nothing of a failed engine stays"
    return str(caught.value)


def test_responses_come_in_the_order_of_the_prompts_and_end_at_stop_tokens(engine: VllmEngine) -> None:
    before = tokens_counted()
    assert engine.generate(PROMPTS, Decoding(LENGTH, ())).responses == expected(PROMPTS)
    assert tokens_counted() - before == LENGTH * len(PROMPTS)
    stop = expected(PROMPTS)[0][4]
    decoding = Decoding(LENGTH, (stop, 1))
    found = engine.generate(PROMPTS, decoding).responses
    assert found == [until_stop(ids, decoding, None) for ids in expected(PROMPTS)]
    assert found[0][-1] == stop


def test_vllm_gets_the_settings_of_decoding_alone(engine: VllmEngine, fake: FakeVllm) -> None:
    engine.generate(PROMPTS[:1], Decoding(LENGTH, (62, 1), temperature=0.7, top_p=0.9))
    (arguments,) = fake.seen("arguments")
    assert arguments["generation_config"] == "vllm"
    assert (arguments["dtype"], arguments["skip_tokenizer_init"], arguments["trust_remote_code"]) == (
        "float32",
        True,
        False,
    )
    (sampling,) = fake.seen("sampling")
    del sampling["seed"]
    assert sampling == {
        "temperature": 0.7, "top_p": 0.9, "max_tokens": LENGTH, "ignore_eos": True, "stop_token_ids": [62, 1],
        "detokenize": False, "output_kind": "delta", "lora": None,
    }  # fmt: skip


def test_samples_depend_on_seed_and_prompt_and_not_on_the_batch(engine: VllmEngine) -> None:
    sampled = Decoding(LENGTH, (), temperature=1.0)
    first, second, again = engine.generate([PROMPTS[0], PROMPTS[1], PROMPTS[0]], sampled).responses
    assert first != again, "equal prompts draw different samples"
    assert engine.generate([PROMPTS[1], PROMPTS[0]], sampled).responses == [second, first]
    other = Decoding(LENGTH, (), temperature=1.0, seed=7)
    assert engine.generate([PROMPTS[0]], other).responses != [first]


def test_a_stop_string_ends_a_response_soon_and_exactly_where_the_own_engines_end_it(
    engine: VllmEngine, fake: FakeVllm, tokenizer: PreTrainedTokenizerFast
) -> None:
    fake.set_faults(seconds=0.01)
    (free,) = expected(PROMPTS[:1], 600)
    decoding = Decoding(600, (), stop_strings=(tokenizer.decode(free[10:13]),))
    assert engine.generate(PROMPTS[:1], decoding).responses == [until_stop(free, decoding, tokenizer)]
    assert len(until_stop(free, decoding, tokenizer)) <= 13
    assert len(fake.seen("steps")) < 300
    assert engine.generate(PROMPTS[1:], Decoding(LENGTH, ())).responses == expected(PROMPTS[1:])


def test_a_killed_child_is_started_again_once_for_a_batch(
    engine: VllmEngine, fake: FakeVllm, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.set_faults(step="kill")
    assert engine.generate(PROMPTS, Decoding(LENGTH, ())).responses == expected(PROMPTS)
    assert "vLLM was killed (signal 9): started again" in capsys.readouterr().err
    engine.close()
    fake.set_faults(step="kill", always=True)
    assert "vLLM was killed (signal 9) with a batch of 3 prompts, 2 times" in refusal(engine)
    assert len(fake.seen("arguments")) == 4


def test_a_child_that_says_nothing_is_killed(
    engine: VllmEngine, fake: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_engine, "SILENT_SECONDS", 0.5)
    fake.set_faults(step="hang", always=True)
    assert "sent nothing for 0 s" in refusal(engine)
    assert not [process for process in psutil.Process().children() if str(vllm_engine.CHILD) in process.cmdline()]


def test_a_slow_start_is_waited_for(engine: VllmEngine, fake: FakeVllm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_engine, "SILENT_SECONDS", 0.9)
    fake.set_faults(loading=1.0)
    assert engine.generate(PROMPTS, Decoding(LENGTH, ())).responses == expected(PROMPTS)


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        ({"load": "the GPU is too small"}, "vLLM cannot load a model: ValueError: the GPU is too small"),
        ({"step": "no kernel image"}, "vLLM failed: ValueError: no kernel image"),
        ({"load": "exit"}, "vLLM cannot load a model: exit code 3; no such device"),
        ({"cut": 5}, "ended a response after 5 of 12 tokens without a stop token"),
    ],
)
def test_an_error_of_vllm_is_one_line_and_nothing_is_tried_again(
    engine: VllmEngine, fake: FakeVllm, faults: dict[str, Any], words: str
) -> None:
    fake.set_faults(**faults, always=True)
    message = refusal(engine)
    assert words in message
    assert "\n" not in message
    assert len(fake.seen("arguments")) == 1


READY = {"protocol": vllm_child.PROTOCOL, "version": "9.1", "device": "cpu"}


@pytest.mark.parametrize(
    ("lines", "device", "words"),
    [
        (["Warning: of another library"], "auto", "a line that is no message ('Warning: of another library')"),
        (["[1, 2]"], "auto", "a line that is no message"),
        ([json.dumps({**READY, "protocol": 0})], "auto", "speaks protocol 0 of vLLM 9.1, and protocol 1"),
        ([json.dumps({**READY, "version": "9.2"})], "auto", "protocol 1 of vLLM 9.2, and protocol 1 of vLLM 9.1"),
        ([json.dumps(READY)], "cuda:1", "is built for cpu, and --device is cuda"),
        ([json.dumps(READY), json.dumps({"words": "hello"})], "auto", "an unknown message (words)"),
        ([json.dumps(READY), json.dumps({"tokens": [[3, [1]]]})], "auto", "response 3 of 3 that are no token ids"),
        ([json.dumps(READY), json.dumps({"tokens": [[0, ["a"]]]})], "auto", "response 0 of 3 that are no token ids"),
        ([json.dumps(READY), json.dumps({"tokens": [0]})], "auto", "an unknown message (tokens)"),
    ],
)
def test_what_a_foreign_process_sends_is_refused(
    fake: FakeVllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], device: str, words: str
) -> None:
    script = tmp_path / "child.py"
    script.write_text(
        "import sys\nif '--version' in sys.argv:\n    print('9.1')\n    sys.exit()\n"
        + "".join(f"print({line!r}, flush=True)\n" for line in lines)
        + "sys.stdin.read()\n"
    )
    monkeypatch.setattr(vllm_engine, "CHILD", script)
    assert words in refusal(VllmEngine(VllmModel("a model", lambda: tmp_path, "float32", device, 512)))


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("none/bin/python", "none/bin/python cannot be run (No such file or directory)"),
        ("empty.py", "no vLLM in the environment of"),
        (None, "no vLLM in the environment of"),
    ],
)
def test_an_environment_without_vllm_is_named_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: str | None, words: str
) -> None:
    (tmp_path / "empty.py").write_text("#!/bin/sh\n")
    (tmp_path / "empty.py").chmod(0o755)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    vllm_engine.engine_version.cache_clear()
    if python is None and vllm_child.version() is not None:
        pytest.skip("this environment has vLLM")
    model = VllmModel("m", lambda: tmp_path, "float32", "auto", 512, None if python is None else tmp_path / python)
    message = refusal(VllmEngine(model))
    assert words in message
    assert "--engine-python" in message


def test_a_longer_text_starts_vllm_again_with_room_for_it(engine: VllmEngine, fake: FakeVllm) -> None:
    engine.generate(PROMPTS, Decoding(LENGTH, ()))
    engine.generate([[1] * 5000], Decoding(LENGTH, ()))
    engine.generate([[1] * 9000], Decoding(LENGTH, ()))
    engine.generate(PROMPTS, Decoding(LENGTH, ()))
    assert [arguments["max_model_len"] for arguments in fake.seen("arguments")] == [4096, 8192, 10_000]


def test_the_child_ends_when_the_engine_is_closed_and_when_its_parent_dies(
    engine: VllmEngine, fake: FakeVllm, tmp_path: Path
) -> None:
    engine.generate(PROMPTS, Decoding(LENGTH, ()))
    assert engine._child is not None
    child = psutil.Process(engine._child.pid)
    engine.close()
    assert not child.is_running()
    fake.set_faults(step="hang", always=True)  # it ends whatever it is doing
    alone = subprocess.Popen(
        [sys.executable, "-P", vllm_engine.CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert alone.stdin is not None
    for message in (
        {"protocol": 1, "arguments": {}, "adapter": None},
        {"batch": 1, "prompts": [[1]], "seeds": [1], "sampling": {}},
    ):
        alone.stdin.write(json.dumps(message).encode() + b"\n")
    alone.stdin.flush()
    while not (fake.folder / "done-step").exists():
        assert alone.poll() is None
    alone.stdin.close()  # as the system does when the parent dies
    assert alone.wait(timeout=10) != 0


def test_the_child_gets_the_workers_own_gpu_and_nothing_of_this_environments_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def environment(device: str, python: Path | None = None) -> dict[str, str]:
        return vllm_engine._environment(VllmModel("m", lambda: tmp_path, "float32", device, 512, python))

    monkeypatch.setenv("PYTHONPATH", "here")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "CUDA_VISIBLE_DEVICES" not in environment("auto")
    assert environment("cuda:1")["CUDA_VISIBLE_DEVICES"] == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert environment("auto")["CUDA_VISIBLE_DEVICES"] == "4,6"
    assert environment("cuda:1")["CUDA_VISIBLE_DEVICES"] == "6"
    assert environment("auto")["PYTHONPATH"] == "here"
    assert "PYTHONPATH" not in environment("auto", Path("python"))
