"""Expert and amateur: find both, load them, with weights in memory once where they share them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lightreasoner.config import PairConfig
from lightreasoner.models.alignment import Alignment
from lightreasoner.models.loading import context_length, load_model, load_tokenizer, pick_dtype, with_adapter
from lightreasoner.models.own_amateurs import find_amateur, first_layers, with_adapter_of, with_dropout
from lightreasoner.models.sides import ANOTHER_MODEL, Side
from lightreasoner.models.source import ModelSource, find_model
from lightreasoner.models.vocabulary import SharedVocabulary, logit_width, share_vocabulary


@dataclass(frozen=True)
class Pair:
    """Expert and amateur, loaded, with the tokens they share.

    Attributes:
        alignment: how the amateur reads the expert's texts; None where it reads the same ids.
    """

    expert: PreTrainedModel
    amateur: PreTrainedModel
    vocabulary: SharedVocabulary
    alignment: Alignment | None = None

    @property
    def context_length(self) -> float:
        """Tokens that both models were made for; infinite where neither says."""
        return min(context_length(self.expert), context_length(self.amateur))


@dataclass(frozen=True)
class FoundPair:
    """Expert and amateur on this machine, before their weights are loaded.

    Attributes:
        expert: the expert, maybe with an adapter.
        amateur: the model that the amateur is made of; of its own weights, where `shares_weights`.
        side: what the amateur is.
    """

    config: PairConfig
    expert: ModelSource
    amateur: ModelSource
    side: Side = ANOTHER_MODEL

    @property
    def dtype(self) -> torch.dtype:
        """The precision of both models."""
        return pick_dtype(self.config, self.expert, self.amateur)

    @property
    def shares_weights(self) -> bool:
        """The amateur computes with the weights of the expert, which are in memory once."""
        return self.side.shares_weights

    @property
    def own_weights(self) -> list[ModelSource]:
        """The models whose weights are loaded: the expert, and the amateur if it has weights of its own."""
        return [self.expert] if self.shares_weights else [self.expert, self.amateur]

    def tokenizers(self) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
        """The tokenizers of expert and amateur, which are one where the amateur is made of the expert.

        They are compared id by id, unless the setting `vocabulary` says that they are aligned.

        Raises:
            VocabularyMismatch: see `share_vocabulary`.
        """
        expert = load_tokenizer(self.expert, self.config)
        amateur = load_tokenizer(self.amateur, self.config) if self.side.has_own_files else expert
        if self.config.vocabulary != "aligned":
            share_vocabulary(expert, amateur, rule=self.config.vocabulary)
        return expert, amateur

    def load_one(self, source: ModelSource) -> PreTrainedModel:
        """Load one of the two models, in the precision of both; see `load_model`."""
        return load_model(source, self._machine)

    def load_amateur(self, expert: Callable[[], PreTrainedModel]) -> PreTrainedModel:
        """The amateur: loaded, or made of the expert, which is asked for then only.

        Raises:
            ModelError: see `load_model`, `quantising.load_in_4bit` and `own_amateurs`.
        """
        side = self.side
        if side.kind == "4bit":
            from lightreasoner.models.quantising import load_in_4bit

            return load_in_4bit(self.amateur, self._machine, f"--amateur {self.config.amateur}")
        if not self.shares_weights:
            return self.load_one(self.amateur)
        if side.kind == "layers":
            return first_layers(expert(), side.layers)
        if side.kind == "dropout":
            return with_dropout(expert(), side.dropout)
        if self.amateur.adapter == self.expert.adapter:
            return expert()
        return with_adapter_of(expert(), self.expert.name, self.expert.adapter, self.amateur.adapter)

    @property
    def _machine(self) -> PairConfig:
        return self.config.model_copy(update={"dtype": str(self.dtype).removeprefix("torch.")})

    def load(self, alignment: Alignment | None = None) -> Pair:
        """Load both models, after a comparison of their tokenizers.

        Args:
            alignment: how the amateur reads the expert's texts, with another tokenizer.

        Raises:
            VocabularyMismatch: see `share_vocabulary`.
            ModelError: see `load_model`.
        """
        first, second = self.tokenizers()  # before any weights are read
        expert = self.load_one(self.expert)
        amateur = self.load_amateur(lambda: expert)
        widths = (logit_width(expert), logit_width(amateur))
        if alignment is not None:
            return Pair(expert, amateur, alignment.vocabulary.with_logits(widths), alignment)
        return Pair(expert, amateur, share_vocabulary(first, second, widths, self.config.vocabulary))


def find_pair(config: PairConfig, adapter: Path | None = None, flag: str = "--amateur") -> FoundPair:
    """Find both models, the expert with this adapter; see `find_model`, `with_adapter` and `find_amateur`."""
    expert = with_adapter(find_model(config.expert, config.expert_revision), adapter)
    side, amateur = find_amateur(config, expert, flag)
    if side.kind == "4bit":
        from lightreasoner.models.quantising import check_4bit, check_base

        check_4bit(config, f"{flag} {config.amateur}")
        check_base(amateur, config, f"{flag} {config.amateur}")
    return FoundPair(config, expert, amateur, side)


def load_pair(config: PairConfig, adapter: Path | None = None, flag: str = "--amateur") -> Pair:
    """Find and load both models; see `find_pair` and `FoundPair.load`."""
    return find_pair(config, adapter, flag).load()
