"""How well a model in training predicts solutions that it was not trained on, checkpoint by checkpoint."""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from lightreasoner.config import FinetuneConfig
from lightreasoner.inference.packing import packs
from lightreasoner.inference.scoring import tokens_per_pass
from lightreasoner.models.loading import find_model, load_model, load_tokenizer
from lightreasoner.models.vocabulary import logit_width, vocabulary_of
from lightreasoner.training.batches import Collator, load_labels
from lightreasoner.training.objective import LabelObjective


def checkpoint_losses(config: FinetuneConfig, finetuned: Path, solutions: Path) -> list[dict[str, Any]]:
    """Mean cross-entropy (nats a token) of the base and of every checkpoint that is left.

    Args:
        config: how the training found its model.
        finetuned: folder of a finished `lightr finetune`.
        solutions: folder of `lightr baseline ground-truth` on other problems, made with the same model.

    Returns:
        `step` and `loss`, ascending; step 0 is the base.
    """
    source = find_model(config.model, config.model_revision)
    _, labels = load_labels(solutions, config.max_length)
    tokenizer = load_tokenizer(source, trust_remote_code=config.trust_remote_code)
    model = load_model(source, dtype=config.dtype, device=config.device, trust_remote_code=config.trust_remote_code)
    objective = LabelObjective(model, vocabulary_of(tokenizer, logit_width(model)), labels_per_step=len(labels))
    texts = [[int(i) for i in (labels.text_of == text).nonzero()[0]] for text in range(len(labels.text_starts) - 1)]
    batches = Collator(labels, packs(model), tokens_per_pass(model))([texts])

    @torch.inference_mode()
    def loss(forward: Any) -> float:
        return sum(objective(forward, batch.to(model.device)).item() for batch in batches)

    checkpoints = {int(path.name.rpartition("-")[2]): path for path in finetuned.glob("checkpoint-*")}
    curve = [{"step": 0, "loss": loss(model)}]
    adapted: Any = None
    for step, path in sorted(checkpoints.items()):
        if adapted is None:
            adapted = PeftModel.from_pretrained(model, str(path), adapter_name=str(step)).eval()
        else:
            adapted.load_adapter(str(path), adapter_name=str(step))
            adapted.set_adapter(str(step))
        curve.append({"step": step, "loss": loss(adapted)})
    return curve
