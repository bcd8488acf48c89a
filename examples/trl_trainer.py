"""The loss of `lightr finetune` in a training loop of transformers or TRL.

    lightr sample --config miniature --out runs/mine
    python examples/trl_trainer.py runs/mine OUT [MODEL] [STEPS]

`LightReasonerTrainer` takes the place of `transformers.Trainer`. To put the loss into a trainer of TRL, derive it from
`trl.SFTTrainer` instead, and give `SFTConfig(dataset_kwargs={"skip_prepare_dataset": True},
remove_unused_columns=False)`: TRL would tokenise the data set otherwise.

A batch is some rollouts with all their labels; `lightr finetune` takes an exact number of labels for each step.
"""

import sys
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from lightreasoner.losses import LabelCollator, label_cross_entropy, label_dataset, logit_width, vocabulary_of
from lightreasoner.miniature import model_path


class LightReasonerTrainer(Trainer):
    """Minimises the mean over all labels of an optimizer step of −Σ v_C · log π_θ (Eq 8)."""

    def __init__(self, model: Any, processing_class: Any, **settings: Any) -> None:
        super().__init__(
            model, processing_class=processing_class, data_collator=LabelCollator(processing_class.pad_token_id or 0),
            **settings,
        )  # fmt: skip
        self.vocabulary = vocabulary_of(processing_class, logit_width(model))
        self.model_accepts_loss_kwargs = True  # the loss is divided by the labels of the whole step, see below

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], int]:
        """The micro-batches of a step, and their number of labels."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, sum(len(batch["label_rows"]) for batch in batches)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This micro-batch's share of the mean loss of its step."""
        inputs = dict(inputs)
        rows, ids, weights = (inputs.pop(name) for name in ("label_rows", "label_ids", "label_weights"))
        factors = inputs.pop("label_factors", 1.0)
        outputs = model(**inputs, use_cache=False)
        losses = label_cross_entropy(outputs.logits.flatten(0, 1)[rows], ids, weights, self.vocabulary)
        loss = (losses * factors).sum() / (num_items_in_batch or len(rows))
        return (loss, outputs) if return_outputs else loss


def main(run_folder: str, out: str, name: str = str(model_path("expert")), steps: str = "20") -> None:
    """Train a LoRA on the labels of a run folder."""
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    arguments = TrainingArguments(
        out, max_steps=int(steps), per_device_train_batch_size=4, gradient_accumulation_steps=2, learning_rate=5e-4,
        remove_unused_columns=False, logging_steps=5, save_strategy="no", report_to="none", use_cpu=True,
    )  # fmt: skip
    trainer = LightReasonerTrainer(
        get_peft_model(model, lora), tokenizer, args=arguments, train_dataset=label_dataset(run_folder)
    )
    trainer.train()
    trainer.save_model(out)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(f"loss {losses[0]:.4f} → {losses[-1]:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
