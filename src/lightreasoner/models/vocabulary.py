"""The token ids that two models mean the same by, compared id by id."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lightreasoner.config import VocabularyRule
from lightreasoner.errors import VocabularyMismatch


@dataclass(frozen=True)
class SharedVocabulary:
    """The token ids that both models mean the same by.

    A model's logits may be wider than its tokens (Qwen2.5 pads 151,665 tokens to 151,936 or 152,064 rows); the
    padding rows carry no meaning, and distributions are renormalised without them.

    Attributes:
        token_ids: ascending ids of the real tokens, int64 [V].
        left_out: ids that mean different things to two models, and are therefore not among them.
    """

    token_ids: Tensor
    left_out: int = 0

    @property
    def is_contiguous(self) -> bool:
        """The real ids are 0 … V−1, as in nearly every model."""
        return int(self.token_ids[-1]) == len(self.token_ids) - 1

    def log_softmax(self, logits: Tensor) -> Tensor:
        """Log-probabilities over the real tokens, float32: logits [N, width] → [N, V].

        Summed in float64. In float32 on a CPU the sum over a large vocabulary is off by some 1e-5 of itself, which
        shifts a whole row, and with it a KL divergence by more than rounding its terms ever does.
        """
        real = logits[:, : len(self.token_ids)] if self.is_contiguous else logits[:, self.token_ids.to(logits.device)]
        shifted = real.float() - real.float().amax(-1, keepdim=True).detach()
        wide = torch.float32 if logits.device.type == "mps" else torch.float64  # which Apple's GPUs do not have
        return shifted - shifted.exp().sum(-1, keepdim=True, dtype=wide).log().float()

    def column_of(self, ids: Tensor) -> Tensor:
        """Columns of `log_softmax` that stand for these token ids."""
        return ids if self.is_contiguous else torch.searchsorted(self.token_ids.to(ids.device), ids)

    def holds(self, ids: Tensor) -> Tensor:
        """Which of these token ids are among the real tokens, bool of the same shape."""
        return torch.isin(ids, self.token_ids.to(ids.device))

    def log_of(self, log_probs: Tensor, ids: Tensor) -> Tensor:
        """Of each row of `log_softmax`, the value for one token id: [N, V], [N] → [N]; −∞ for ids left out."""
        known = self.holds(ids)
        columns = self.column_of(torch.where(known, ids, self.token_ids[0].to(ids.device)))
        return torch.where(known, log_probs.gather(1, columns[:, None])[:, 0], -torch.inf)

    def ids_of(self, columns: Tensor) -> Tensor:
        """Token ids that these columns of `log_softmax` stand for."""
        return columns if self.is_contiguous else self.token_ids.to(columns.device)[columns]


def share_vocabulary(
    expert: PreTrainedTokenizerBase,
    amateur: PreTrainedTokenizerBase,
    widths: tuple[int, int],
    rule: VocabularyRule = "strict",
) -> SharedVocabulary:
    """Compare two vocabularies id by id, and give what they share.

    Args:
        expert: the expert's tokenizer.
        amateur: the amateur's tokenizer.
        widths: logit widths of expert and amateur.
        rule: `strict` wants every id to mean the same; `shared` takes those that do.

    Raises:
        VocabularyMismatch: under `strict`, an id stands for different tokens, or for a token in one vocabulary only;
            names the first such ids. Under `shared`, most ids differ. Also where a token has no logit.
    """
    expert_tokens, amateur_tokens = tokens_by_id(expert), tokens_by_id(amateur)
    every_id = sorted(expert_tokens | amateur_tokens)
    differing = [i for i in every_id if expert_tokens.get(i) != amateur_tokens.get(i)]
    if rule == "shared" and len(differing) < len(every_id) / 2:
        dropped = set(differing)
        every_id = [i for i in every_id if i not in dropped]
    elif differing:
        examples = "; ".join(
            f"id {i} is {expert_tokens.get(i)!r} to the expert and {amateur_tokens.get(i)!r} to the amateur"
            for i in differing[:3]
        )
        raise VocabularyMismatch(
            f"expert and amateur do not share a vocabulary: {len(differing)} of {len(every_id)} ids differ "
            f"({examples}). "
            "Their distributions cannot be compared token by token; choose an amateur of the expert's family, or, "
            "where only a few added tokens differ, leave these out with --vocabulary shared"
        )
    if every_id[-1] >= min(widths):
        raise VocabularyMismatch(
            f"token id {every_id[-1]} has no logit: the models give {widths[0]} and {widths[1]} logits. "
            "The tokenizer does not belong to the model"
        )
    return SharedVocabulary(torch.tensor(every_id), len(differing))


def vocabulary_of(tokenizer: PreTrainedTokenizerBase, width: int) -> SharedVocabulary:
    """The real tokens of one model."""
    return share_vocabulary(tokenizer, tokenizer, (width, width))


def logit_width(model: PreTrainedModel) -> int:
    """How many logits the model gives for a position."""
    head: Any = model.get_output_embeddings()
    return int(head.weight.shape[0])


def tokens_by_id(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The token of each id, added ones too."""
    return {index: token for token, index in tokenizer.get_vocab().items()}
