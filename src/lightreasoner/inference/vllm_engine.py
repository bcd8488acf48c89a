"""The engine vLLM: a child process of another environment, with token ids in and out (see `vllm_child`).

vLLM chooses tokens alone. What a response is, where it ends and every distribution are decided here, as for the other
engines. In float32 the responses are those of `PackedEngine` but for ties: steps whose two best logits differ by less
than rounding.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import psutil
import torch
from transformers import PreTrainedTokenizerBase

from lightreasoner.errors import EngineError
from lightreasoner.inference import vllm_child
from lightreasoner.inference.generation import Decoding, Generation, TokenIds, contains_stop, stream_seed, until_stop
from lightreasoner.runs.progress import count_tokens, say

CHILD = Path(vllm_child.__file__)
START_SECONDS = 1800.0  # for reading weights over a network and compiling
SILENT_SECONDS = 600.0  # the child replies several times a second, but a first pass over long prompts takes a while
SHORTEST_LENGTH = 4096  # tokens of prompt and response that vLLM is prepared for at least
GPU_SHARE = 0.9  # of the GPU's memory, for weights and KV cache
CACHE_SHARE, LARGEST_CACHE = 0.25, 8  # of the free memory of a CPU, and in GiB
STARTS = 2  # of the child for one batch


class ChildEnded(Exception):
    """The child was killed, or says nothing any more."""


@dataclass(frozen=True)
class VllmModel:
    """What the child loads.

    Attributes:
        name: of the model, for messages.
        folder: makes the folder that vLLM loads; called at each start.
        dtype: precision, as torch names it.
        device: `auto`, or where it must run.
        context: most tokens of prompt and response; infinite where the model does not say.
        python: Python of vLLM's environment; None for this one.
        adapter: folder of a PEFT adapter, served as a LoRA request.
    """

    name: str
    folder: Callable[[], Path]
    dtype: str
    device: str
    context: float
    python: Path | None = None
    adapter: Path | None = None
    trust_remote_code: bool = False

    def arguments(self, length: int) -> dict[str, Any]:
        """Arguments of `vllm.LLM`, for texts of at most `length` tokens."""
        lora = {} if self.adapter is None else {"enable_lora": True, "max_lora_rank": _served_rank(self.adapter)}
        return {
            "model": str(self.folder()),
            "skip_tokenizer_init": True,
            "generation_config": "vllm",  # not the model's own settings
            "dtype": self.dtype,
            "seed": 0,  # each request has a seed of its own
            "max_model_len": length,
            "gpu_memory_utilization": GPU_SHARE,
            "trust_remote_code": self.trust_remote_code,
            **lora,
        }


@dataclass
class VllmEngine:
    """Generates with vLLM; the child starts with the first batch, and ends with `close`.

    Attributes:
        tokenizer: used for stop strings only.
    """

    model: VllmModel
    tokenizer: PreTrainedTokenizerBase | None = None
    _child: "_Child | None" = field(default=None, init=False)
    _length: int = field(default=SHORTEST_LENGTH, init=False)
    _batch: int = field(default=0, init=False)

    def generate(self, prompts: Sequence[TokenIds], decoding: Decoding) -> Generation:
        """See `inference.generation.Engine.generate`. Each prompt has its own random stream.

        Raises:
            EngineError: vLLM cannot be started, reports an error, or ended twice.
        """
        for start in range(1, STARTS + 1):
            try:
                return Generation(self._responses(self._started(prompts, decoding), prompts, decoding))
            except ChildEnded as error:
                self.close()
                if start == STARTS:
                    raise EngineError(
                        f"vLLM {error} with a batch of {len(prompts)} prompts, {STARTS} times. Often too little memory "
                        "is free: use a smaller batch, or --engine own"
                    ) from None
                say(f"vLLM {error}: started again")
            except BaseException:
                self.close()
                raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        """End the child and wait for it, so that its memory is free."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def _started(self, prompts: Sequence[TokenIds], decoding: Decoding) -> "_Child":
        needed = max(map(len, prompts)) + decoding.max_new_tokens
        if self._child is None or needed > self._length:
            self.close()
            # In powers of two, so that few starts are needed. vLLM allows for texts of this length, and some models
            # choose their position encoding by it.
            self._length = int(min(max(SHORTEST_LENGTH, 1 << (needed - 1).bit_length()), self.model.context))
            wanted = engine_version(self.model.python)
            say(f"starting vLLM {wanted} with {self.model.name}")
            self._child = _Child(self.model)
            self._child.load(self.model, self._length, wanted)
        return self._child

    def _responses(self, child: "_Child", prompts: Sequence[TokenIds], decoding: Decoding) -> list[TokenIds]:
        self._batch += 1
        child.send(
            batch=self._batch,
            prompts=list(prompts),
            seeds=_seeds(decoding.seed, prompts),
            sampling={
                "temperature": decoding.temperature,
                "top_p": decoding.top_p if decoding.temperature else 1.0,
                "max_tokens": decoding.max_new_tokens,
                "ignore_eos": True,
                "stop_token_ids": list(decoding.stop_ids),
            },
        )
        found: list[TokenIds] = [[] for _ in prompts]
        stopped: set[int] = set()
        while "done" not in (message := child.receive(SILENT_SECONDS)):
            news = _new_tokens(message, len(prompts))
            count_tokens(sum(len(ids) for _, ids in news))
            for index, ids in news:
                found[index] += ids
            if ended := [
                index for index, ids in news if index not in stopped and self._stopped(found[index], ids, decoding)
            ]:
                stopped.update(ended)
                child.send(batch=self._batch, abort=ended)
        for index, ids in enumerate(found):
            is_whole = len(ids) == decoding.max_new_tokens or (ids and ids[-1] in decoding.stop_ids)
            if not is_whole and index not in stopped:
                raise EngineError(
                    f"vLLM ended a response after {len(ids)} of {decoding.max_new_tokens} tokens without a stop token, "
                    "so it would count as whole. Use another version of vLLM, or --engine own"
                )
        return [until_stop(ids, decoding, self.tokenizer) for ids in found]

    def _stopped(self, ids: TokenIds, new: TokenIds, decoding: Decoding) -> bool:
        """Whether the new tokens complete a stop string: the newest text alone is looked at first, which is faster."""
        if not decoding.stop_strings or not new:
            return False
        assert self.tokenizer is not None
        newest = ids[-len(new) - max(map(len, decoding.stop_strings)) - 1 :]
        return all(contains_stop(part, decoding.stop_strings, self.tokenizer) for part in (newest, ids))


class _Child(subprocess.Popen[str]):
    """The process of `vllm_child`, in a session of its own: Ctrl-C in a terminal reaches the parent alone."""

    def __init__(self, model: VllmModel) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._python = python_of(model.python)
        try:
            super().__init__(
                [self._python, "-P", str(CHILD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=_environment(model),
                encoding="ascii",
                start_new_session=True,
            )
        except OSError as error:
            raise _not_runnable(self._python, error) from None
        self._messages: SimpleQueue[str] = SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def load(self, model: VllmModel, length: int, wanted: str) -> None:
        """Load the model, and compare what the child says about itself.

        Raises:
            EngineError: the model does not load, or the child is not the one that is meant.
            ChildEnded: see `receive`.
        """
        adapter = None if model.adapter is None else str(model.adapter.resolve())
        self.send(protocol=vllm_child.PROTOCOL, arguments=model.arguments(length), adapter=adapter)
        ready = self.receive(START_SECONDS, f"cannot load {model.name}")
        protocol, version, device = (ready.get(name) for name in ("protocol", "version", "device"))
        if (protocol, version) != (vllm_child.PROTOCOL, wanted):
            raise EngineError(
                f"the process that {self._python} started speaks protocol {protocol} of vLLM {version}, and protocol "
                f"{vllm_child.PROTOCOL} of vLLM {wanted} is needed. Did its environment change? Start again"
            )
        if model.device != "auto" and device != (kind := torch.device(model.device).type):
            raise EngineError(
                f"vLLM in {self._python} is built for {device}, and --device is {kind}. Choose one of them"
            )

    def send(self, **message: Any) -> None:
        """Send a message; what a process that has ended does not read, `receive` reports."""
        assert self.stdin is not None
        with suppress(OSError):
            self.stdin.write(json.dumps(message) + "\n")
            self.stdin.flush()

    def receive(self, seconds: float, doing: str = "failed") -> dict[str, Any]:
        """The next message.

        Raises:
            ChildEnded: the process was killed, or sent nothing for so many seconds.
            EngineError: it ended by itself, reports an error (`doing` says at what), or sends what is no message.
        """
        try:
            line = self._messages.get(timeout=seconds)
        except Empty:
            raise ChildEnded(f"sent nothing for {seconds:.0f} s") from None
        if not line:
            code = self.wait()
            if code < 0:
                raise ChildEnded(f"was killed (signal {-code})")
            raise EngineError(
                f"vLLM {doing}: exit code {code}; {self._last_line()}. See `{self._python}`'s environment"
            )
        try:
            message: dict[str, Any] = dict(json.loads(line))
        except (ValueError, TypeError):
            raise EngineError(
                f"vLLM's process sent a line that is no message ({line.strip()[:80]!r}). Another library in the "
                f"environment of {self._python} writes to its output; use an environment with vLLM alone"
            ) from None
        if "error" in message:
            raise EngineError(f"vLLM {doing}: {message['error']}")
        return message

    def end(self) -> None:
        """Kill the process with all that it has started, and wait for it."""
        if hasattr(os, "killpg"):
            with suppress(OSError):
                os.killpg(self.pid, 9)
        self.kill()
        self.wait()
        for stream in (self.stdin, self.stdout, self._log):
            with suppress(OSError):
                assert stream is not None
                stream.close()

    def _read(self) -> None:
        assert self.stdout is not None
        with suppress(OSError, ValueError):  # closed meanwhile, or not ASCII
            for line in self.stdout:
                self._messages.put(line)
        self._messages.put("")

    def _last_line(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _new_tokens(message: Mapping[str, Any], prompts: int) -> list[tuple[int, TokenIds]]:
    """The content of a message `tokens`, checked."""
    try:
        news = [(index, list(ids)) for index, ids in message["tokens"]]
    except (KeyError, TypeError, ValueError):
        raise EngineError(f"vLLM's process sent an unknown message ({', '.join(message)})") from None
    for index, ids in news:
        if index not in range(prompts) or not all(type(token) is int and token >= 0 for token in ids):
            raise EngineError(f"vLLM's process sent tokens of response {index} of {prompts} that are no token ids")
    return news


def _seeds(seed: int, prompts: Sequence[TokenIds]) -> list[int]:
    """A seed for each prompt, which depends on the prompt alone; equal prompts of a batch get different ones."""
    seen: Counter[tuple[int, ...]] = Counter()
    seeds = []
    for prompt in prompts:
        key = tuple(prompt)
        seeds.append(stream_seed(seed, [list(prompt), [seen[key]]]))
        seen[key] += 1
    return seeds


def _served_rank(adapter: Path) -> int:
    """The smallest rank that vLLM serves and that holds the adapter."""
    try:
        rank = int(json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"{adapter / 'adapter_config.json'} names no LoRA rank ({error}); vLLM serves LoRA alone"
        ) from None
    ranks = (8, 16, 32, 64, 128, 256, 320, 512)
    if rank > ranks[-1]:
        raise EngineError(
            f"vLLM serves adapters up to rank {ranks[-1]}, and this one has {rank}. Merge it: lightr merge"
        )
    return next(served for served in ranks if served >= rank)


def python_of(python: Path | None) -> str:
    """The Python of vLLM's environment. Links stay, since a virtual environment is found by the path of its link."""
    return sys.executable if python is None else os.path.abspath(python.expanduser())


def _not_runnable(python: str, error: OSError) -> EngineError:
    return EngineError(f"{python} cannot be run ({error.strerror}); name a Python that has vLLM with --engine-python")


def _environment(model: VllmModel) -> dict[str, str]:
    """Variables of the child: those of this process, and what keeps vLLM quiet, offline and in one process."""
    free = psutil.virtual_memory().available * CACHE_SHARE / 2**30
    defaults = {
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, min(LARGEST_CACHE, int(free)))),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # several of them would bind themselves to the same cores
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    fixed = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process to kill, and one order of scheduling
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",  # the model is on disk
    }
    device = torch.device("cpu" if model.device == "auto" else model.device)
    if device.type == "cuda" and device.index is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        fixed["CUDA_VISIBLE_DEVICES"] = visible.split(",")[device.index] if visible else str(device.index)
    # Modules of this environment are not those of another one.
    left_out = () if model.python is None else ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**defaults, **kept, **fixed}


@cache
def engine_version(python: Path | None) -> str:
    """The version of vLLM in the environment of this Python, without loading it.

    Raises:
        EngineError: this Python cannot be run, or has no vLLM.
    """
    command = [python_of(python), "-P", str(CHILD), "--version"]
    variables = {name: value for name, value in os.environ.items() if python is None or name != "PYTHONPATH"}
    try:
        found = subprocess.run(  # noqa: S603 - the user's own choice
            command, env=variables, capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        raise EngineError(f"{command[0]} did not say its version of vLLM within 60 s; check --engine-python") from None
    except OSError as error:
        raise _not_runnable(command[0], error) from None
    version = found.stdout.strip()
    if found.returncode or not version:
        raise EngineError(
            f"no vLLM in the environment of {command[0]}: install it there ({command[0]} -m pip install vllm), or name "
            "the Python of an environment that has it with --engine-python"
        )
    return version
