"""The tokens with the same meaning in two models: compared id by id, or by their bytes."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lightreasoner.config.sections import VocabularyRule
from lightreasoner.errors import VocabularyMismatch


@dataclass(frozen=True)
class SharedVocabulary:
    """The token ids with the same meaning in both models.

    A model can have more logits than tokens (Qwen2.5 pads 151,665 tokens to 151,936 or 152,064 rows). The padding has
    no meaning, and distributions are renormalised without it.

    Attributes:
        token_ids: ascending ids of the shared tokens, int64 [V].
        left_out: number of ids left out because their tokens differ.
    """

    token_ids: Tensor
    left_out: int = 0

    @property
    def widest(self) -> int:
        """Number of logits that a computation on one row takes, of the model that has more."""
        return len(self.token_ids)

    @property
    def is_contiguous(self) -> bool:
        """Whether the ids are 0 … V−1, as in nearly every model."""
        return int(self.token_ids[-1]) == len(self.token_ids) - 1

    def log_softmax(self, logits: Tensor) -> Tensor:
        """Log-probabilities over the shared tokens, float32: logits [N, width] → [N, V].

        Sums in float64. A float32 sum over a large vocabulary has a relative error of about 1e-5 on a CPU, which shifts
        a whole row, and changes a KL divergence more than the rounding of its terms.
        """
        real = logits[:, : len(self.token_ids)] if self.is_contiguous else logits[:, self.token_ids.to(logits.device)]
        return _log_softmax(real)

    def amateur_log_softmax(self, logits: Tensor) -> Tensor:
        """`log_softmax` of the amateur's logits."""
        return self.log_softmax(logits)

    def column_of(self, ids: Tensor) -> Tensor:
        """Columns of `log_softmax` for these token ids."""
        return ids if self.is_contiguous else torch.searchsorted(self.token_ids.to(ids.device), ids)

    def holds(self, ids: Tensor) -> Tensor:
        """Whether each id is a shared token, bool in the shape of `ids`."""
        if self.is_contiguous:  # without `isin`, which sorts, and makes the host wait for the device
            return (ids >= 0) & (ids < len(self.token_ids))
        return torch.isin(ids, self.token_ids.to(ids.device))

    def log_of(self, log_probs: Tensor, ids: Tensor) -> Tensor:
        """Log-probability of one token id in each row of `log_softmax`: [N, V], [N] → [N]; −∞ for ids left out."""
        known = self.holds(ids)
        columns = self.column_of(torch.where(known, ids, int(self.token_ids[0])))
        return torch.where(known, log_probs.gather(1, columns[:, None])[:, 0], -torch.inf)

    def ids_of(self, columns: Tensor) -> Tensor:
        """Token ids of these columns of `log_softmax`."""
        return columns if self.is_contiguous else self.token_ids.to(columns.device)[columns]


@dataclass(frozen=True, kw_only=True)
class AlignedVocabulary(SharedVocabulary):
    """The tokens that stand for the same bytes in two models with different ids; see `models.alignment`.

    Columns, labels and stored ids are the expert's. `left_out` counts its tokens that the amateur lacks.

    Attributes:
        amateur_ids: ids of the same tokens in the amateur, in the order of `token_ids`, int64 [V].
        expert_tokens: all ids of the expert that are tokens.
        amateur_tokens: all ids of the amateur that are tokens.
    """

    amateur_ids: Tensor
    expert_tokens: Tensor
    amateur_tokens: Tensor

    @property
    def widest(self) -> int:
        """See `SharedVocabulary.widest`."""
        return max(len(self.expert_tokens), len(self.amateur_tokens))

    def amateur_log_softmax(self, logits: Tensor) -> Tensor:
        """Log-probabilities of the amateur over the common tokens, float32: logits [N, width] → [N, V]."""
        return _log_softmax(logits[:, self.amateur_ids.to(logits.device)])

    def masses(self, expert_logits: Tensor, amateur_logits: Tensor) -> tuple[Tensor, Tensor]:
        """Probability that each model gives to the common tokens before the renormalisation, [N] each."""
        return (
            _mass(expert_logits, self.token_ids, self.expert_tokens),
            _mass(amateur_logits, self.amateur_ids, self.amateur_tokens),
        )

    def with_logits(self, widths: tuple[int, int]) -> "AlignedVocabulary":
        """This vocabulary, after a check that each token has a logit in models of these widths.

        Raises:
            VocabularyMismatch: a token has none.
        """
        for tokens, width in zip((self.expert_tokens, self.amateur_tokens), widths, strict=True):
            _refuse_without_logit(int(tokens[-1]), width, widths)
        return self


def _log_softmax(real: Tensor) -> Tensor:
    shifted = real.float() - real.float().amax(-1, keepdim=True).detach()
    return shifted - shifted.exp().sum(-1, keepdim=True, dtype=_wide(real)).log().float()


def _mass(logits: Tensor, part: Tensor, tokens: Tensor) -> Tensor:
    """Σ softmax(logits)[part], where the softmax runs over these tokens: [N, width] → [N]."""
    whole = logits[:, tokens.to(logits.device)].float()
    highest = whole.amax(-1, keepdim=True)
    chosen = logits[:, part.to(logits.device)].float()
    sums = [(values - highest).exp().sum(-1, dtype=_wide(logits)) for values in (chosen, whole)]
    return (sums[0] / sums[1]).float()


def _wide(values: Tensor) -> torch.dtype:
    """The precision of sums; Apple's GPUs have no float64."""
    return torch.float32 if values.device.type == "mps" else torch.float64


def _refuse_without_logit(highest: int, width: int, widths: tuple[int, int]) -> None:
    if highest >= width:
        raise VocabularyMismatch(
            f"token id {highest} has no logit: the models give {widths[0]} and {widths[1]} logits. "
            "The tokenizer does not belong to the model"
        )


def share_vocabulary(
    expert: PreTrainedTokenizerBase,
    amateur: PreTrainedTokenizerBase,
    widths: tuple[int, int] | None = None,
    rule: VocabularyRule = "strict",
) -> SharedVocabulary:
    """Compare two vocabularies id by id, and return the shared tokens.

    Args:
        expert: its tokenizer.
        amateur: its tokenizer.
        widths: logit widths of expert and amateur; None before the models are loaded.
        rule: `strict` requires all ids to be equal; `shared` leaves out those that differ. `aligned` has a class
            of its own, `models.alignment.Alignment`.

    Raises:
        VocabularyMismatch: under `strict`, an id has different tokens, or a token in one vocabulary only; the message
            names the first such ids. Under `shared`, most ids differ. Under both, a token has no logit.
    """
    expert_tokens, amateur_tokens = tokens_by_id(expert), tokens_by_id(amateur)
    every_id = sorted(expert_tokens | amateur_tokens)
    differing = [i for i in every_id if expert_tokens.get(i) != amateur_tokens.get(i)]
    few = len(differing) < len(every_id) / 2  # else the families differ, and to leave ids out would not help
    if rule == "shared" and few:
        dropped = set(differing)
        every_id = [i for i in every_id if i not in dropped]
    elif differing:
        examples = "; ".join(
            f"id {i} is {expert_tokens.get(i)!r} to the expert and {amateur_tokens.get(i)!r} to the amateur"
            for i in differing[:3]
        )
        raise VocabularyMismatch(
            f"expert and amateur do not share a vocabulary: {len(differing)} of {len(every_id)} ids differ "
            f"({examples}). Their distributions cannot be compared token by token; choose an amateur of the expert's "
            f"family{', or leave these ids out with --vocabulary shared' if few else ''}, or compare the two where "
            "their texts align, with --vocabulary aligned"
        )
    if widths is not None:
        _refuse_without_logit(every_id[-1], min(widths), widths)
    return SharedVocabulary(torch.tensor(every_id), len(differing))


def vocabulary_of(tokenizer: PreTrainedTokenizerBase, width: int) -> SharedVocabulary:
    """The tokens of one model, without padding."""
    return share_vocabulary(tokenizer, tokenizer, (width, width))


def logit_width(model: PreTrainedModel) -> int:
    """Number of logits at each position."""
    head: Any = model.get_output_embeddings()
    return int(head.weight.shape[0])


def tokens_by_id(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The token of each id, added ones too."""
    return {index: token for token, index in tokenizer.get_vocab().items()}
