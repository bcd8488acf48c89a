"""Which models are in memory: both together, or one after the other."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lightreasoner.config.sections import Residency
from lightreasoner.inference.memory import free_memory
from lightreasoner.inference.scoring import Head
from lightreasoner.models.alignment import Alignment
from lightreasoner.models.loading import context_length, empty_model, pick_device, release_memory
from lightreasoner.models.pair_memory import FOUR_BITS, PairMemory
from lightreasoner.models.pairs import FoundPair
from lightreasoner.models.source import ModelSource
from lightreasoner.models.vocabulary import SharedVocabulary, logit_width, share_vocabulary
from lightreasoner.runs.progress import say
from lightreasoner.runs.terminal import size


class LazyPair:
    """Expert and amateur, each loaded when it is first used. What the configurations say needs no weights.

    An amateur with the expert's weights is made of the expert, and takes no memory of its own; the two are always
    together.

    Attributes:
        vocabulary: the tokens that both models share.
        alignment: how the amateur reads the expert's texts; None where it reads the same ids.
        context_length: tokens that both models were made for; infinite where neither says.
        state_bytes: size of one hidden state of the expert.
        memory: bytes of both models.

    Raises:
        VocabularyMismatch: see `share_vocabulary`.
        ModelError: see `empty_model`; from `expert` and `amateur`, see `load_model`.
    """

    def __init__(
        self,
        found: FoundPair,
        expert: PreTrainedTokenizerBase,
        amateur: PreTrainedTokenizerBase,
        alignment: Alignment | None = None,
    ) -> None:
        self._found, self.alignment = found, alignment
        first = empty_model(found.expert, found.config)
        second = first if found.shares_weights else empty_model(found.amateur, found.config)
        widths = (logit_width(first), logit_width(second))
        self.vocabulary: SharedVocabulary = (
            alignment.vocabulary.with_logits(widths)
            if alignment
            else share_vocabulary(expert, amateur, widths, found.config.vocabulary)
        )
        self.context_length = min(context_length(first), context_length(second))
        head = Head.of(first).weight
        self.state_bytes = head.shape[1] * found.dtype.itemsize
        self.memory = PairMemory(
            expert=self._bytes(found.expert, first),
            amateur=0 if found.shares_weights else self._bytes(found.amateur, second, found.side.kind == "4bit"),
            head=head.numel() * found.dtype.itemsize,
            device=pick_device(found.config.device).type,
        )

    def _bytes(self, source: ModelSource, empty: PreTrainedModel, in_4bit: bool = False) -> int:
        if getattr(empty.config, "quantization_config", None) and not source.gguf_file:
            return sum(path.stat().st_size for path in source.folder.glob("*.safetensors"))
        width, count = self._found.dtype.itemsize, sum(weight.numel() for weight in empty.parameters())
        if in_4bit:
            embeddings: Any = empty.get_input_embeddings()
            whole = {id(part): part.numel() for part in (Head.of(empty).weight, embeddings.weight)}
            return int((count - sum(whole.values())) * FOUR_BITS) + sum(whole.values()) * width
        return count * width

    @cached_property
    def expert(self) -> PreTrainedModel:
        """The expert."""
        return self._found.load_one(self._found.expert)

    @cached_property
    def amateur(self) -> PreTrainedModel:
        """The amateur."""
        return self._found.load_amateur(lambda: self.expert)

    def drop_expert(self) -> Head:
        """Free the expert but for its head. A matrix that the head shares with the embeddings stays with it.

        One whose weights are the amateur's too stays whole.
        """
        head = Head.of(self.expert)
        if self._found.shares_weights:
            return head
        if head.weight.device.type == "cpu":
            for weight in head.module.parameters():
                weight.data = weight.data.clone()  # weights on a CPU can be views of one map of the whole file
        del self.expert
        release_memory()
        return head

    def residency(self, chosen: Residency, unfinished: Path, workers: int = 1) -> Literal["together", "sequential"]:
        """Whether both models are in memory together; says so in one line where the memory decides it.

        Args:
            chosen: the setting.
            unfinished: ledger of an expert's pass; where there is one, `auto` goes on with it.
            workers: processes that share the memory of the device.
        """
        if chosen != "auto":
            return chosen
        if unfinished.exists():
            return "sequential"
        if self._found.shares_weights:
            return "together"
        free, memory = free_memory(pick_device(self._found.config.device)) // workers, self.memory
        if memory.together <= free:
            return "together"
        say(
            f"expert and amateur do not fit together: they need about {size(memory.together)} (weights of "
            f"{size(memory.expert)} and {size(memory.amateur)}), and {size(free)} of {memory.device} memory are free"
            f"{' for each worker' if workers > 1 else ''}. "
            f"They are loaded one after the other (--residency sequential), which needs {size(memory.sequential)}"
        )
        return "sequential"
