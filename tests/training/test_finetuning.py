"""Stage 2: equal gradients on every path, exact steps, and resuming as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from lightreasoner import contrast
from lightreasoner.config import FinetuneConfig, MachineSettings, SampleConfig
from lightreasoner.errors import DataError, Interrupted, ModelError, RunCorrupted, RunMismatch, TrainingDiverged
from lightreasoner.models.loading import find_model, load_model, load_tokenizer
from lightreasoner.models.vocabulary import logit_width, vocabulary_of
from lightreasoner.samples.sampling import sample
from lightreasoner.training.batches import Collator, LabelSchedule, LabelSet, MicroBatch, load_labels, share_of_step
from lightreasoner.training.finetuning import LabelObjective, attach_lora, finetune, newest_complete_checkpoint

Gradients = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def samples(random_expert: Path, random_amateur: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("samples")
    sample(
        SampleConfig(
            expert=str(random_expert),
            amateur=str(random_amateur),
            dataset="arithmetic",
            max_questions=12,
            max_new_tokens=10,
            out=out,
            dtype="float32",
        )
    )
    return out


@pytest.fixture(scope="module")
def labels(samples: Path) -> LabelSet:
    return load_labels(samples, max_length=4096)[1]


def config_for(samples: Path, expert: Path, out: Path, **settings: object) -> FinetuneConfig:
    common = {"steps": 6, "learning_rate": 1e-3, "dtype": "float32", "save_steps": 2}
    return FinetuneConfig(model=str(expert), data=samples, out=out, **{**common, **settings})  # type: ignore[arg-type]


def gradients(
    expert: Path, samples: Path, blocks: list[list[int]], labels: LabelSet, packed: bool, tokens: int = 4096
) -> Gradients:
    """LoRA gradients of one step over these blocks, dropout 0."""
    config = config_for(samples, expert, samples, lora_dropout=0.0)
    source = find_model(str(expert))
    model = load_model(source, MachineSettings(dtype="float32", device="cpu"))
    objective = LabelObjective(model, vocabulary_of(load_tokenizer(source), logit_width(model)), labels_per_step=16)
    with_lora = attach_lora(model, config)
    for name, parameter in with_lora.named_parameters():
        if "lora_B" in name:  # zero at the start, which would hide the gradient of A
            torch.nn.init.normal_(parameter, std=0.05)
    for batch in Collator(labels, packed, tokens)([blocks])["micro_batches"]:
        objective(with_lora, batch).backward()
    return {name: p.grad for name, p in with_lora.named_parameters() if p.grad is not None}


def assert_equal(first: Gradients, second: Gradients) -> None:
    assert first
    assert first.keys() == second.keys()
    for name in first:
        difference = (first[name] - second[name]).norm() / first[name].norm()
        assert difference < 1e-5, name


def only_micro_batch(labels: LabelSet, blocks: list[list[int]], packed: bool) -> MicroBatch:
    (batch,) = Collator(labels, packed, tokens=4096)([blocks])["micro_batches"]
    return batch


def sixteen_sharing_rollouts(labels: LabelSet) -> list[int]:
    """Sixteen labels of as few rollouts as possible, so that prefixes can be shared."""
    by_text = np.argsort(labels.text_of, kind="stable")
    return [int(label) for label in by_text[:16]]


def blocks_by_rollout(labels: LabelSet, chosen: list[int]) -> list[list[int]]:
    blocks: dict[int, list[int]] = {}
    for label in chosen:
        blocks.setdefault(int(labels.text_of[label]), []).append(label)
    return list(blocks.values())


def test_every_path_gives_the_same_gradients(random_expert: Path, samples: Path, labels: LabelSet) -> None:
    chosen = sixteen_sharing_rollouts(labels)
    alone = [[label] for label in chosen]
    shared = blocks_by_rollout(labels, chosen)
    assert max(map(len, shared)) > 1
    reference = gradients(random_expert, samples, alone, labels, packed=False)
    assert_equal(reference, gradients(random_expert, samples, alone, labels, packed=True))
    assert_equal(reference, gradients(random_expert, samples, shared, labels, packed=False))
    assert_equal(reference, gradients(random_expert, samples, shared, labels, packed=True))


@pytest.mark.parametrize("packed", [False, True])
def test_the_size_of_micro_batches_does_not_change_the_gradient(
    random_expert: Path, samples: Path, labels: LabelSet, packed: bool
) -> None:
    alone = [[label] for label in sixteen_sharing_rollouts(labels)]
    reference = gradients(random_expert, samples, alone, labels, packed=False)
    longest = int(labels.prefix_length.max())
    for tokens in (1, 2 * longest, 5 * longest):
        parts = Collator(labels, packed, tokens)([alone])["micro_batches"]
        assert len(parts) > 1
        assert sum(len(part.rows) for part in parts) == 16
        assert_equal(reference, gradients(random_expert, samples, alone, labels, packed, tokens))


def test_a_label_beside_longer_ones_has_the_loss_it_has_alone(random_expert: Path, labels: LabelSet) -> None:
    source = find_model(str(random_expert))
    model = load_model(source, MachineSettings(dtype="float32", device="cpu"))
    objective = LabelObjective(model, vocabulary_of(load_tokenizer(source), logit_width(model)), labels_per_step=1)
    order = np.argsort(labels.prefix_length)
    short, long = int(order[0]), int(order[-1])
    assert labels.prefix_length[short] < labels.prefix_length[long]
    losses = {}
    for name, block in {"short": [[short]], "long": [[long]], "both": [[short], [long]]}.items():
        losses[name] = objective(model, only_micro_batch(labels, block, packed=False)).item()
    assert losses["both"] == pytest.approx(losses["short"] + losses["long"], rel=1e-5)


def test_the_loss_is_equation_8_on_the_bare_prefix(random_expert: Path, labels: LabelSet) -> None:
    source = find_model(str(random_expert))
    model = load_model(source, MachineSettings(dtype="float32", device="cpu"))
    vocabulary = vocabulary_of(load_tokenizer(source), logit_width(model))
    objective = LabelObjective(model, vocabulary, labels_per_step=1)
    label = 3
    ids, weights = labels.label(label)
    prefix = torch.from_numpy(labels.prefix(label, int(labels.prefix_length[label])))[None]
    dense = torch.zeros(len(vocabulary.token_ids))
    dense[torch.from_numpy(ids)] = torch.from_numpy(weights)
    with torch.inference_mode():
        log_expert = model(prefix).logits[0, -1].log_softmax(-1)
        expected = contrast.label_cross_entropy(dense, log_expert).item()
        found = objective(model, only_micro_batch(labels, [[label]], packed=True)).item()
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("labels_per_forward", [1, 3, 16])
def test_each_step_has_its_labels_and_each_epoch_every_label_once(labels: LabelSet, labels_per_forward: int) -> None:
    total = len(labels)
    count = 3 * total // 8 + 1
    schedule = LabelSchedule(labels, 8, count, labels_per_forward, seed=0)
    stream = []
    for index in range(count):
        blocks = schedule[index]
        assert sum(map(len, blocks)) == 8
        for block in blocks:
            assert len(block) <= labels_per_forward
            assert len({int(labels.text_of[label]) for label in block}) == 1
        stream += [label for block in blocks for label in block]
    for epoch in range(3):
        assert Counter(stream[epoch * total : (epoch + 1) * total]) == Counter(range(total))
    assert stream[:total] != stream[total : 2 * total]


def test_the_schedule_depends_on_the_seed_alone(labels: LabelSet) -> None:
    def blocks(seed: int) -> list[list[list[int]]]:
        schedule = LabelSchedule(labels, 8, 10, 4, seed)
        return [schedule[index] for index in range(10)]

    assert blocks(1) == blocks(1)
    assert blocks(1) != blocks(2)


def test_a_step_that_cannot_be_dealt_out_is_refused() -> None:
    assert share_of_step(16, 2) == 8
    with pytest.raises(DataError, match="16 labels a step"):
        share_of_step(16, 3)


def test_long_prefixes_are_skipped_and_counted_never_cut(samples: Path, labels: LabelSet) -> None:
    limit = int(np.median(labels.prefix_length))
    _, short = load_labels(samples, max_length=limit)
    assert short.skipped == int((labels.prefix_length > limit).sum())
    assert short.prefix_length.max() <= limit
    with pytest.raises(DataError, match="no label"):
        load_labels(samples, max_length=1)


def test_training_lowers_the_loss_and_keeps_its_promises(random_expert: Path, samples: Path, tmp_path: Path) -> None:
    result = finetune(config_for(samples, random_expert, tmp_path, steps=30, learning_rate=1e-2, logging_steps=5))
    assert result["labels_trained"] == 30 * 16
    assert result["last_loss"] < result["first_loss"]
    log = json.loads((tmp_path / "finetune" / "log.json").read_text())
    assert {"loss", "kl_to_target", "label_entropy", "learning_rate", "labels_per_second"} <= log[0].keys()
    assert log[0]["loss"] == pytest.approx(log[0]["kl_to_target"] + log[0]["label_entropy"], rel=1e-4)
    kept = sorted(path.name for path in (tmp_path / "finetune").glob("checkpoint-*"))
    assert kept == ["checkpoint-28", "checkpoint-30"]
    base = load_model(find_model(str(random_expert)), MachineSettings(dtype="float32", device="cpu"))
    adapter = PeftModel.from_pretrained(base, tmp_path / "finetune" / "adapter")
    assert set(adapter.peft_config["default"].target_modules) == {"q_proj", "v_proj"}


def test_learning_rate_falls_linearly_to_zero(random_expert: Path, samples: Path, tmp_path: Path) -> None:
    finetune(config_for(samples, random_expert, tmp_path, steps=4, logging_steps=1))
    log = json.loads((tmp_path / "finetune" / "log.json").read_text())
    assert [entry["learning_rate"] for entry in log if "loss" in entry] == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])


def test_finished_training_runs_no_more(random_expert: Path, samples: Path, tmp_path: Path) -> None:
    config = config_for(samples, random_expert, tmp_path)
    first = finetune(config)
    stamp = (tmp_path / "finetune" / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns
    assert finetune(config) == first
    assert (tmp_path / "finetune" / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns == stamp


def adapter_of(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "finetune" / "adapter" / "adapter_model.safetensors")


def test_interrupted_and_resumed_equals_uninterrupted(random_expert: Path, samples: Path, tmp_path: Path) -> None:
    settings = {"steps": 80, "save_steps": 30, "logging_steps": 1}
    finetune(config_for(samples, random_expert, tmp_path / "whole", **settings))
    # A real process that is asked to stop once it has logged a few steps, then started again.
    config = config_for(samples, random_expert, tmp_path / "parts", **settings)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    script = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from lightreasoner.config import FinetuneConfig\n"
        "from lightreasoner.errors import LightReasonerError\n"
        "from lightreasoner.training.finetuning import finetune\n"
        "try: finetune(FinetuneConfig.model_validate_json(open(sys.argv[1]).read()))\n"
        "except LightReasonerError as error: sys.exit(error.exit_code)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "config.json")])
    log = tmp_path / "parts" / "finetune" / "log.json"
    while process.poll() is None and not log.exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert not (tmp_path / "parts" / "finetune" / "result.json").exists()
    finetune(config)
    whole, parts = adapter_of(tmp_path / "whole"), adapter_of(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-5, atol=1e-7)
    logs = [json.loads((tmp_path / part / "finetune" / "log.json").read_text()) for part in ("whole", "parts")]
    losses = [[entry["loss"] for entry in log if "loss" in entry] for log in logs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_damaged_checkpoint_is_passed_over(random_expert: Path, samples: Path, tmp_path: Path) -> None:
    finetune(config_for(samples, random_expert, tmp_path))
    folder = tmp_path / "finetune"
    assert newest_complete_checkpoint(folder) == folder / "checkpoint-6"
    weights = folder / "checkpoint-6" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert newest_complete_checkpoint(folder) == folder / "checkpoint-4"
    (folder / "checkpoint-4" / "complete.json").unlink()
    assert newest_complete_checkpoint(folder) is None


def test_labels_of_another_expert_are_refused(random_amateur: Path, samples: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sampled from"):
        finetune(config_for(samples, random_amateur, tmp_path))
    assert not (tmp_path / "finetune").exists()


def test_other_settings_in_the_same_folder_are_refused(random_expert: Path, samples: Path, tmp_path: Path) -> None:
    config = config_for(samples, random_expert, tmp_path)
    finetune(config)
    with pytest.raises(RunMismatch, match=r"learning_rate: 0.001 there, 0.002 now"):
        finetune(config.model_copy(update={"learning_rate": 2e-3}))


def test_samples_that_are_missing_or_unfinished_are_refused(random_expert: Path, samples: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no samples"):
        load_labels(tmp_path, 100)
    copy = tmp_path / "copy" / "sample"
    copy.mkdir(parents=True)
    for path in (samples / "sample").iterdir():
        os.link(path, copy / path.name)
    (copy / "result.json").unlink()
    with pytest.raises(RunCorrupted, match="not finished"):
        load_labels(tmp_path / "copy", 100)


def test_unknown_lora_targets_are_refused(random_expert: Path, samples: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no_such_proj"):
        finetune(config_for(samples, random_expert, tmp_path, lora_targets=("no_such_proj",)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_adapter_is_trained_in_full_precision(
    dtype: str, random_expert: Path, samples: Path, tmp_path: Path
) -> None:
    result = finetune(config_for(samples, random_expert, tmp_path, dtype=dtype, steps=12, learning_rate=1e-2))
    assert result["last_loss"] > 0
    assert {tensor.dtype for tensor in adapter_of(tmp_path).values()} == {torch.float32}


def test_half_precision_without_a_gpu_is_refused(random_expert: Path, samples: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="float16 needs a CUDA device"):
        finetune(config_for(samples, random_expert, tmp_path, dtype="float16", device="cpu"))


def test_two_processes_train_what_one_trains(random_expert: Path, samples: Path, tmp_path: Path) -> None:
    settings = {"steps": 10, "logging_steps": 5, "lora_dropout": 0.0}
    finetune(config_for(samples, random_expert, tmp_path / "one", **settings))
    arguments = {"model": random_expert, "data": samples, "out": tmp_path / "two", "learning-rate": 1e-3}
    arguments |= {"dtype": "float32", "device": "cpu", "steps": 10, "logging-steps": 5, "save-steps": 2}
    arguments |= {"lora-dropout": 0.0, "tokens-per-micro-batch": 100}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "lightreasoner.cli", "finetune"]
    command += [str(text) for key, value in arguments.items() for text in (f"--{key}", value)]
    found = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert found.returncode == 0, found.stderr
    one, two = adapter_of(tmp_path / "one"), adapter_of(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-6)
    logs = [json.loads((tmp_path / part / "finetune" / "log.json").read_text()) for part in ("one", "two")]
    for first, second in zip(*([entry for entry in log if "loss" in entry] for log in logs), strict=True):
        for key in ("loss", "kl_to_target", "label_entropy"):
            assert first[key] == pytest.approx(second[key], rel=1e-4)


def test_a_loss_that_is_no_number_stops_before_the_step(random_expert: Path, samples: Path, labels: LabelSet) -> None:
    source = find_model(str(random_expert))
    model = load_model(source, MachineSettings(dtype="float32", device="cpu"))
    objective = LabelObjective(model, vocabulary_of(load_tokenizer(source), logit_width(model)), labels_per_step=16)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(TrainingDiverged, match="nan"):
        objective(model, only_micro_batch(labels, [[0]], packed=True))


def test_interrupted_carries_the_exit_code_of_its_signal() -> None:
    assert Interrupted(signal.SIGINT).exit_code == 130
    assert Interrupted(signal.SIGTERM).exit_code == 143


def test_weights_of_every_label_sum_to_one(labels: LabelSet) -> None:
    sums = [float(labels.label(label)[1].sum()) for label in range(len(labels))]
    assert sums == pytest.approx([1.0] * len(labels), abs=1e-6)
