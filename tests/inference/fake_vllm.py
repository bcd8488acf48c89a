"""A stand-in for the package vllm: `vllm_child` runs with it unchanged, without a model.

Token i of a response follows from the prompt, i and (with a temperature) the seed. The variable FAKE_VLLM says as JSON
what goes wrong, and FAKE_VLLM_SEEN names the folder where it writes down what it was given.
"""

import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any


def token(prompt: list[int], place: int, seed: int | None = None) -> int:
    return 3 + (sum(prompt) * 31 + place * 7 + len(prompt) + (seed or 0)) % 60


FAULTS: dict[str, Any] = json.loads(os.environ.get("FAKE_VLLM", "{}"))
SEEN = Path(os.environ.get("FAKE_VLLM_SEEN", os.devnull))


def seen(name: str, value: Any) -> None:
    if SEEN.is_dir():
        with (SEEN / name).open("a") as file:
            file.write(json.dumps(value) + "\n")


def go_wrong(where: str) -> None:
    """Do what FAKE_VLLM says for this place, once unless it says always."""
    fault = FAULTS.get(where)
    if fault is None:
        return
    done = SEEN / f"done-{where}"
    if done.exists() and not FAULTS.get("always"):
        return
    done.touch()
    if fault == "kill":
        os.kill(os.getpid(), 9)
    elif fault == "hang":
        time.sleep(600)
    elif fault == "exit":
        print("a line of a log\nno such device", file=sys.stderr, flush=True)
        os._exit(3)
    else:
        raise ValueError(f"{fault}\nmore lines")


class SamplingParams(SimpleNamespace):
    pass


class LoRARequest(SimpleNamespace):
    def __init__(self, name: str, number: int, path: str) -> None:
        super().__init__(path=path)


class Engine:
    def __init__(self) -> None:
        self.running: dict[str, tuple[list[int], Any, list[int]]] = {}

    def add_request(self, request: str, inputs: Any, params: Any, lora_request: Any = None) -> None:
        seen("sampling", {**vars(params), "lora": lora_request and lora_request.path})
        self.running[request] = inputs["prompt_token_ids"], params, []

    def has_unfinished_requests(self) -> bool:
        return bool(self.running)

    def abort_request(self, requests: list[str]) -> None:
        seen("aborted", requests)
        for request in requests:
            self.running.pop(request, None)

    def step(self) -> list[Any]:
        go_wrong("step")
        print("vLLM says something on stdout")
        time.sleep(FAULTS.get("seconds", 0))
        outputs = []
        for request, (prompt, params, ids) in list(self.running.items()):
            new = token(prompt, len(ids), params.seed if params.temperature else None)
            ids.append(new)
            outputs.append(SimpleNamespace(request_id=request, outputs=[SimpleNamespace(token_ids=[new])]))
            if len(ids) == FAULTS.get("cut", params.max_tokens) or new in params.stop_token_ids:
                del self.running[request]
        seen("steps", len(outputs))
        return outputs


class LLM:
    def __init__(self, **arguments: Any) -> None:
        seen("arguments", arguments)
        time.sleep(FAULTS.get("loading", 0))
        go_wrong("load")
        self.llm_engine = Engine()


def module(name: str, **content: Any) -> None:
    sys.modules[f"vllm.{name}"] = ModuleType(f"vllm.{name}")
    vars(sys.modules[f"vllm.{name}"]).update(content)


module("platforms", current_platform=SimpleNamespace(device_type="cpu"))
module("sampling_params", RequestOutputKind=SimpleNamespace(DELTA="delta"))
module("lora")
module("lora.request", LoRARequest=LoRARequest)
