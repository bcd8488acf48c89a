"""The engines by name: a model, and what generates with it.

An engine satisfies `generation.Engine`: token ids in, token ids out. Another one (SGLang, or an endpoint that takes and
gives token ids) is a class like `ServedByVllm` and one line in `ENGINES`; distributions are always computed here.
"""

import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lightreasoner.config.sections import EngineName, EngineSettings
from lightreasoner.errors import EngineError
from lightreasoner.inference.generation import Engine
from lightreasoner.inference.packed_engine import engine_for
from lightreasoner.inference.vllm_engine import VllmEngine, VllmModel, engine_version
from lightreasoner.models.loading import context_length, dtype_name, empty_model, load_model
from lightreasoner.models.source import ModelSource, first_line
from lightreasoner.runs.files import new_folder
from lightreasoner.runs.progress import say
from lightreasoner.runs.terminal import size


class Served:
    """A model that the own engine generates with. Nothing is loaded before it is used.

    Args:
        source: the model, maybe with an adapter.
        settings: engine, precision and device.
        tokenizer: used for stop strings only.
        folder: existing folder for temporary files, by the time that the engine is used.
    """

    def __init__(
        self,
        source: ModelSource,
        settings: EngineSettings,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
    ) -> None:
        self._source = source
        self._settings = settings
        self._tokenizer = tokenizer
        self._folder = folder

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model in this process, with its adapter."""
        return load_model(self._source, self._settings)

    @property
    def engine(self) -> Engine:
        """What generates with the model."""
        return self._own_engine

    @cached_property
    def _own_engine(self) -> Engine:
        return engine_for(self.model, self._tokenizer)

    @cached_property
    def context(self) -> float:
        """Tokens that the model was made for; infinite where it does not say."""
        return context_length(self.model)

    def identity(self) -> dict[str, Any]:
        """What decides the responses beside the model, for fingerprints; nothing for the own engine."""
        return {}

    def close(self) -> None:
        """Free the memory of what was loaded."""
        for name in ("model", "_own_engine"):
            self.__dict__.pop(name, None)


class ServedByVllm(Served):
    """A model that vLLM generates with in another process; `model` loads it here too, for scoring, and ends vLLM."""

    _PREFIX = f".vllm-model-{platform.node()}-"  # of the folder for a GGUF model; then the process

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model in this process; vLLM's is ended first, since both may not fit in memory."""
        self._vllm.close()
        return super().model

    @property
    def engine(self) -> Engine:
        """See `Served.engine`."""
        super().close()
        return self._vllm

    @cached_property
    def _vllm(self) -> VllmEngine:
        settings = self._settings
        model = VllmModel(
            name=self._source.name,
            folder=self._weights,
            dtype=dtype_name(settings, self._source),
            device=settings.device,
            context=self.context,
            python=settings.engine_python,
            adapter=self._source.adapter,
            trust_remote_code=settings.trust_remote_code,
        )
        return VllmEngine(model, self._tokenizer)

    @cached_property
    def context(self) -> float:
        """See `Served.context`."""
        return context_length(empty_model(self._source, self._settings))

    def identity(self) -> dict[str, Any]:
        """See `Served.identity`."""
        return {"engine": "vllm", "engine_version": engine_version(self._settings.engine_python)}

    def close(self) -> None:
        """See `Served.close`."""
        super().close()
        if "_vllm" in self.__dict__:
            self._vllm.close()
        shutil.rmtree(self._copy, ignore_errors=True)

    @property
    def _copy(self) -> Path:
        return self._folder / f"{self._PREFIX}{os.getpid()}"

    def _weights(self) -> Path:
        """The folder that vLLM loads: the model's own, or a temporary one with the weights of a GGUF file."""
        if self._source.gguf_file is None:
            return self._source.folder.resolve()
        for old in self._folder.glob(f"*{self._PREFIX}*"):  # left by processes that were killed; .tmp: unfinished
            process = old.name.partition(self._PREFIX)[2].removesuffix(".tmp")
            if process.isdecimal() and not psutil.pid_exists(int(process)):
                shutil.rmtree(old, ignore_errors=True)
        if not self._copy.exists():
            settings = self._settings.model_copy(
                update={"dtype": dtype_name(self._settings, self._source), "device": "cpu"}
            )
            model = load_model(replace(self._source, adapter=None), settings)
            bytes_ = sum(parameter.nbytes for parameter in model.parameters())
            say(f"vLLM reads no .gguf file: {self._copy} gets its weights ({size(bytes_)}), and is removed at the end")
            with new_folder(self._copy, bytes_) as folder:
                try:
                    model.save_pretrained(folder)
                except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
                    raise EngineError(f"{self._source.name} cannot be saved for vLLM: {first_line(error)}") from error
        return self._copy.resolve()


# An engine is one class and one line here.
ENGINES: Mapping[EngineName, type[Served]] = {"own": Served, "vllm": ServedByVllm}


def served_by(
    settings: EngineSettings,
    source: ModelSource,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
) -> Served:
    """The model with the engine that the settings name; see `Served`."""
    return ENGINES[settings.engine](source, settings, tokenizer, folder)
