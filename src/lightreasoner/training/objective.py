"""The loss of stage 2 at the labelled positions (Eq 7 and 8), or the entropy there."""

import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightreasoner import contrast
from lightreasoner.config.sections import Objective
from lightreasoner.errors import TrainingDiverged
from lightreasoner.inference.packing import attention_by
from lightreasoner.inference.scoring import head_rows
from lightreasoner.models.vocabulary import SharedVocabulary
from lightreasoner.training.batches import MicroBatch


def label_cross_entropy(
    logits: Tensor, label_ids: Tensor, label_weights: Tensor, vocabulary: SharedVocabulary | None = None
) -> Tensor:
    """L̃ = −Σ_a v_C(a) · log π_θ(a) at each row (Eq 8), from logits: [N, width], [N, K], [N, K] → [N], nats.

    Args:
        logits: of the trained model at the labelled positions, any float type; computed in float32.
        label_ids: tokens of each label, right-padded with any id.
        label_weights: their probabilities v_C, right-padded with 0.
        vocabulary: the real tokens, over which π_θ is normalised, see `vocabulary_of`; None: all columns.
    """
    if vocabulary is None:
        vocabulary = SharedVocabulary(torch.arange(logits.shape[-1]))
    log_labelled = vocabulary.log_softmax(logits).gather(1, vocabulary.column_of(label_ids))
    return contrast.label_cross_entropy(label_weights, log_labelled)


@dataclass
class LabelObjective:
    """The loss at the labelled positions of a micro-batch, and its sums for the log.

    `entropy` is the loss of EM-FT, arXiv 2505.15134: the mean over positions of H(π_θ(· | s_t)), where s_t are fixed
    prefixes of samples of the untuned model. Its gradient by the logit of token a is −π_θ(a)·(log π_θ(a) + H). Checked
    in the released code of SePT (arXiv 2510.18814), which has it as a baseline, and in the paper's abstract and
    introduction. The paper trains all weights; here LoRA is trained.

    Attributes:
        model: its LM head computes the chosen rows only; LoRA layers may be attached to it later.
        vocabulary: the real tokens; π_E is normalised over them, as in sampling.
        labels_per_step: every label weighs 1/labels_per_step in the gradient of its step.
        processes: DDP averages gradients over processes; the loss is multiplied by their number to undo this.
        kind: `label` is Eq 8.
        sums: loss and label entropy (nats) and labels of this process since the last log entry.

    The sums of a step's micro-batches stay on the device until `settle` reads them, once a step.
    """

    model: PreTrainedModel
    vocabulary: SharedVocabulary
    labels_per_step: int
    processes: int = 1
    kind: Objective = "label"
    sums: dict[str, float] = field(default_factory=lambda: {"cross_entropy": 0.0, "entropy": 0.0, "labels": 0.0})
    _unsettled: Tensor | None = field(default=None, init=False)  # as `sums`, [3]

    def __call__(self, forward: nn.Module, batch: MicroBatch) -> Tensor:
        """This micro-batch's share of its step's mean loss, times the labels' factors, scalar, in nats.

        Args:
            forward: the model, perhaps wrapped for several processes.
        """
        head: Any = self.model.get_output_embeddings()
        attending = attention_by(self.model, batch.layout.attend) if batch.layout else nullcontext()
        with head_rows(head, batch.rows), attending:
            logits = forward(**batch.inputs, use_cache=False).logits[0]
        if self.kind == "entropy":
            losses = contrast.entropy(self.vocabulary.log_softmax(logits))
        else:
            losses = label_cross_entropy(logits, batch.label_ids, batch.label_weights, self.vocabulary)
        entropies = contrast.entropy(batch.label_weights.log())
        if batch.factors is not None:
            # Their mean over all labels is 1, so a step is divided by its number of labels still. A division by the sum
            # of the step's factors would give labels of light steps too large a part.
            losses, entropies = losses * batch.factors, entropies * batch.factors
        loss, entropy = losses.sum(), entropies.sum()
        found = torch.stack([loss.detach(), entropy, torch.full_like(entropy, len(batch.rows))])
        self._unsettled = found if self._unsettled is None else self._unsettled + found
        return loss / self.labels_per_step * self.processes

    def settle(self, figure: Tensor) -> float:
        """Add what was computed since the last call to `sums`, before the optimizer's step.

        Args:
            figure: a scalar, such as the gradient's norm; read with the sums, since each transfer waits for the GPU.

        Returns:
            The figure.

        Raises:
            TrainingDiverged: the loss is NaN or infinite.
        """
        assert self._unsettled is not None
        *found, read = torch.cat([self._unsettled, figure.detach()[None]]).tolist()
        self._unsettled = None
        if not math.isfinite(found[0]):
            raise TrainingDiverged(
                f"the loss is {found[0]}; the step was not taken and earlier checkpoints are intact. "
                "Lower --learning-rate, or use --dtype bfloat16 or float32 instead of float16"
            )
        self.sums.update({name: self.sums[name] + value for name, value in zip(self.sums, found, strict=True)})
        return float(read)

    def flush(self) -> dict[str, float]:
        """Means over the labels of all processes since the last flush: `loss`, `kl_to_target`, `label_entropy`.

        The latter two only where the label is the target.
        """
        sums = gather_object([list(self.sums.values())])
        cross_entropy, entropy, labels = (sum(values) for values in zip(*sums, strict=True))
        self.sums.update(dict.fromkeys(self.sums, 0.0))
        loss, label_entropy = cross_entropy / labels, entropy / labels
        if self.kind == "entropy":
            return {"loss": loss}
        return {
            "loss": loss,
            "kl_to_target": round(loss - label_entropy, 6),
            "label_entropy": round(label_entropy, 6),
        }
