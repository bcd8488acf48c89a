"""Samples for the trainers of others, and stored log-probabilities from them, against their own code where it is there.

Rows were checked with axolotl 0.19.0, DistillKit at commit a61c2e7 and TRL 1.16. Without these packages the tests of
their code are skipped, and `test_rows_have_the_documented_form` holds what they were checked to read.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightreasoner import contrast
from lightreasoner.config import SampleConfig, SelectConfig
from lightreasoner.config.sections import MachineSettings
from lightreasoner.errors import DataError, LightReasonerError, SampleFormatError
from lightreasoner.losses import LabelCollator, label_cross_entropy, label_dataset
from lightreasoner.miniature import model_path
from lightreasoner.models.loading import load_model, load_tokenizer
from lightreasoner.models.source import find_model
from lightreasoner.samples.distillkit import Quantised, read_settings, unpack
from lightreasoner.samples.folder import Imported, read_samples
from lightreasoner.samples.jsonl import export_samples, import_samples
from lightreasoner.samples.sampling import sample
from lightreasoner.samples.selecting import select
from lightreasoner.samples.teacher_rows import TeacherReader
from lightreasoner.samples.training_rows import FILL, IGNORED
from lightreasoner.training.batches import LabelSet, load_labels

Row = dict[str, Any]


@pytest.fixture(scope="module")
def expert() -> str:
    return "miniature/expert"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    sample(
        SampleConfig(
            expert="miniature/expert",
            amateur="miniature/base",
            dataset="arithmetic",
            max_questions=8,
            max_new_tokens=32,
            divergence_beta=0.1,
            plausibility_alpha=0.02,
            temperature=1.0,
            dtype="float32",
            device="cpu",
            out=out,
        )
    )
    return out


@pytest.fixture(scope="module")
def model(expert: str) -> Any:
    return load_model(find_model(expert), MachineSettings(dtype="float32", device="cpu")).eval()


def exported(run_folder: Path, to: Any, file: Path, **more: Any) -> list[Row]:
    export_samples(run_folder, file, to=to, **more)
    if file.suffix == ".parquet":
        return list(pq.read_table(file).to_pylist())
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def described(labels: LabelSet, digits: int = 5) -> dict[tuple[int, ...], dict[int, float]]:
    """Each label by its prefix."""
    return {
        tuple(labels.prefix(one, int(labels.prefix_length[one])).tolist()): {
            token: round(weight, digits)
            for token, weight in zip(*map(np.ndarray.tolist, labels.label(one)), strict=True)
        }
        for one in range(len(labels))
    }


def assert_same(
    found: dict[tuple[int, ...], dict[int, float]], expected: dict[tuple[int, ...], dict[int, float]]
) -> None:
    assert found.keys() == expected.keys()
    for prefix, label in expected.items():
        assert found[prefix] == pytest.approx(label, abs=2e-5)


def our_divergence(model: Any, run_folder: Path) -> float:
    """Mean of D_KL(v_C‖π) over all labels, which is our loss less the entropy of the labels."""
    batch = LabelCollator()(list(label_dataset(run_folder)))
    with torch.no_grad():
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.flatten(0, 1)
    losses = label_cross_entropy(logits[batch["label_rows"]], batch["label_ids"], batch["label_weights"])
    return float((losses - contrast.entropy(batch["label_weights"].log())).mean())


def labels_of_rows(rows: list[Row], tokens: str, values: str, is_label: Callable[[Row, int], bool]) -> Any:
    return {
        tuple(row["input_ids"][: place + 1]): {
            token: round(float(np.exp(value)), 5)
            for token, value in zip(row[tokens][place], row[values][place], strict=True)
            if value > FILL / 2
        }
        for row in rows
        for place in range(len(row["input_ids"]))
        if is_label(row, place)
    }


# --- Export ---


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_rows_have_the_documented_form(run_folder: Path, tmp_path: Path, ending: str) -> None:
    expected = described(load_labels(run_folder, 4096)[1])
    axolotl = exported(run_folder, "axolotl", tmp_path / f"a.{ending}")
    found = labels_of_rows(axolotl, "target_token_ids", "target_logprobs", lambda row, at: any(row["target_mask"][at]))
    assert_same(found, expected)
    for row in axolotl:
        behind = [at for at, label in enumerate(row["labels"]) if label != IGNORED]
        assert [at - 1 for at in behind] == [at for at, mask in enumerate(row["target_mask"]) if any(mask)]
        assert all(row["labels"][at] == row["input_ids"][at] for at in behind)
    distillkit = exported(run_folder, "distillkit", tmp_path / f"d.{ending}")
    found = labels_of_rows(distillkit, "token_ids", "top_values", lambda row, at: row["labels"][at] >= 0)
    assert_same(found, expected)
    for rows, names in ((axolotl, ("target_token_ids", "target_logprobs")), (distillkit, ("token_ids", "top_values"))):
        widths = {len(one) for row in rows for name in names for one in row[name]}
        assert widths == {max(map(len, expected.values()))}
        assert all(len(set(one)) == len(one) for row in rows for one in row[names[0]])  # stand-ins are different tokens
        assert all(len(row[name]) == len(row["input_ids"]) for row in rows for name in row)
    assert len({len(row["input_ids"]) for row in distillkit}) == 1
    assert set(map(len, axolotl)) == {6}


def test_one_hot_labels_stand_at_kept_steps_only(run_folder: Path, tmp_path: Path) -> None:
    expected = {
        prefix: max(sorted(label), key=lambda token: label[token])
        for prefix, label in described(load_labels(run_folder, 4096)[1], digits=9).items()
    }
    rows = exported(run_folder, "trl", tmp_path / "t.jsonl")
    found = {
        tuple(row["input_ids"][:at]): label
        for row in rows
        for at, label in enumerate(row["labels"])
        if label != IGNORED
    }
    assert found == expected
    assert all(
        mask == [int(label != IGNORED) for label in row["labels"]] for row in rows for mask in [row["completion_mask"]]
    )


def test_chats_hold_the_rollouts(run_folder: Path, tmp_path: Path) -> None:
    rows = exported(run_folder, "messages", tmp_path / "m.jsonl")
    assert [turn["role"] for turn in rows[0]["messages"]] == ["system", "user", "assistant"]
    assert {row["messages"][1]["content"] for row in rows} <= {
        question
        for table in read_samples(run_folder)[1].tables("rollouts")
        for question in table["question"].to_pylist()
    }
    assert "<|" not in rows[0]["messages"][2]["content"]


def test_a_larger_label_is_cut_and_renormalised(run_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    told = export_samples(run_folder, file, to="axolotl", top_k=2)
    sizes = [len(label) for label in described(load_labels(run_folder, 4096)[1]).values()]
    assert told["columns"] == 2
    assert told["labels_cut"] == sum(size > 2 for size in sizes) > 0
    assert told["labels"] == len(sizes)
    for line in file.read_text().splitlines():
        row = json.loads(line)
        for mask, values in zip(row["target_mask"], row["target_logprobs"], strict=True):
            if any(mask):
                assert np.exp([value for real, value in zip(mask, values, strict=True) if real]).sum() == pytest.approx(
                    1
                )


def test_a_last_token_that_is_not_known_is_the_label(run_folder: Path, expert: str, tmp_path: Path) -> None:
    """An import of the authors' fields alone knows no token behind the last prefix."""
    export_samples(run_folder, tmp_path / "s.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()][:1]
    for line in lines:
        del line["taken_id"]
    (tmp_path / "one.jsonl").write_text(json.dumps(lines[0]) + "\n")
    import_samples(tmp_path / "one.jsonl", tmp_path / "imported", expert=expert)
    (row,) = exported(tmp_path / "imported", "trl", tmp_path / "t.jsonl")
    best = lines[0]["token_ids"][int(np.argmax(lines[0]["weights"]))]
    assert row["input_ids"][-1] == row["labels"][-1] == best


def test_weighed_labels_warn_in_every_form(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weighed = tmp_path / "weighed"
    select(SelectConfig(source=run_folder, out=weighed, keep_labels=5, weigh_by="divergence"))
    export_samples(weighed, tmp_path / "a.parquet", to="axolotl")
    assert "weighed by divergence" in capsys.readouterr().err


# --- Their code on our export ---


def test_axolotls_collator_and_loss_give_ours(run_folder: Path, expert: str, model: Any, tmp_path: Path) -> None:
    collator = pytest.importorskip("axolotl.integrations.kd.collator", reason="axolotl is not installed")
    from axolotl.integrations.kd.kernels.liger import LigerFusedLinearKLTopKLogprobLoss
    from axolotl.integrations.kd.topk_logprob.forward_kl import loss as top_k_loss
    from axolotl.integrations.kd.trainer import AxolotlKDTrainer
    from axolotl.utils.data.wrappers import _is_dataset_already_tokenized
    from datasets import load_dataset

    export_samples(run_folder, tmp_path / "a.parquet", to="axolotl")
    data = load_dataset("parquet", data_files=str(tmp_path / "a.parquet"), split="train", cache_dir=str(tmp_path))
    assert _is_dataset_already_tokenized(data)  # so it is read as it is
    batch = collator.DataCollatorForKD(load_tokenizer(find_model(expert)))([dict(row) for row in data])
    expected = our_divergence(model, run_folder)
    targets = (batch["target_token_ids"], batch["target_logprobs"], batch["target_mask"])
    with torch.no_grad():
        output = model(batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True)
    labels = int((batch["labels"] != IGNORED).sum())
    assert labels == len(load_labels(run_folder, 4096)[1])
    assert top_k_loss(output.logits, *targets, num_items_in_batch=labels).item() == pytest.approx(expected, abs=1e-4)
    fused = LigerFusedLinearKLTopKLogprobLoss(
        0.0, 1.0, 1.0, 0.0, compiled=False, compute_ce_loss=False, normalize_topk=False
    )
    trainer = SimpleNamespace(args=SimpleNamespace(), _kd_loss_fn=fused)
    found = AxolotlKDTrainer.compute_loss(trainer, model, dict(batch))
    assert found.item() == pytest.approx(expected, abs=1e-4)


def test_distillkits_trainer_gives_ours(run_folder: Path, model: Any, tmp_path: Path) -> None:
    main = pytest.importorskip("distillkit.main", reason="DistillKit is not installed")
    from distillkit.configuration import DistillationRunConfig

    (tmp_path / "data").mkdir()
    told = export_samples(run_folder, tmp_path / "data" / "train.parquet", to="distillkit")
    config = DistillationRunConfig(
        model="miniature",
        dataset={"train_dataset": {"repo_id": str(tmp_path / "data"), "split": "train"}, "prepacked": True, "seed": 0},
        teacher={"kind": "dataset", "logprob_compressor": {"d": 3000, "k": 1, "exact_k": 1, "residual_bins": []}},
        sequence_length=1024,
        output_path=str(tmp_path / "out"),
        loss_functions=[{"function": "kl", "weight": 1.0, "temperature": 1.0, "missing_probability_handling": "zero"}],
    )
    data, _ = main.load_data(config.dataset, None)
    assert len(data) == told["rows"]
    batch = main.collate_packed_batch(list(data))
    from distillkit.trainer import DistillationTrainer, create_loss_func

    trainer = SimpleNamespace(
        config=config, model=model, true_vocab_size=model.config.vocab_size, need_hidden_states=False,
        signal_source=main.create_signal_source(config, model.config.vocab_size),
        loss_functions=[create_loss_func(one) for one in config.loss_functions],
        hidden_state_mapping=None, log=lambda values: None,
    )  # fmt: skip
    trainer.total_distillation_loss = lambda *a, **k: DistillationTrainer.total_distillation_loss(trainer, *a, **k)
    with torch.no_grad():
        found = DistillationTrainer.compute_loss(trainer, model, dict(batch))
    assert found.item() == pytest.approx(our_divergence(model, run_folder), abs=1e-4)


def test_trls_trainer_trains_at_kept_steps_alone(run_folder: Path, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="trl is not installed")
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    export_samples(run_folder, tmp_path / "t.parquet", to="trl")
    data = load_dataset("parquet", data_files=str(tmp_path / "t.parquet"), split="train", cache_dir=str(tmp_path / "c"))
    name = str(model_path("expert"))
    loaded = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    arguments = trl.SFTConfig(
        str(tmp_path / "out"), max_steps=1, per_device_train_batch_size=len(data), report_to="none", use_cpu=True,
        bf16=False, logging_steps=1, save_strategy="no", learning_rate=1e-9,
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        loaded, args=arguments, train_dataset=data, processing_class=AutoTokenizer.from_pretrained(name)
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert int((batch["labels"] != IGNORED).sum()) == len(load_labels(run_folder, 4096)[1])
    trainer.train()
    own = label_dataset(run_folder)
    batch = LabelCollator()(list(own))
    best = batch["label_ids"].gather(1, batch["label_weights"].argmax(1, keepdim=True))
    with torch.no_grad():
        logits = loaded.eval()(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.flatten(0, 1)
        expected = label_cross_entropy(logits[batch["label_rows"]], best, torch.ones_like(best, dtype=torch.float32))
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected.mean().item(), abs=1e-4)


# --- Import ---


@pytest.mark.parametrize("kind", ["axolotl", "distillkit"])
@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_labels_come_back_as_they_were(run_folder: Path, expert: str, tmp_path: Path, kind: Any, ending: str) -> None:
    file = tmp_path / f"rows.{ending}"
    export_samples(run_folder, file, to=kind)
    told = import_samples(file, tmp_path / "back", expert=expert, source_format=kind)
    made, labels = load_labels(tmp_path / "back", 4096)
    assert_same(described(labels), described(load_labels(run_folder, 4096)[1]))
    assert told["aligned"] == "next"
    assert told["rows"] == len(labels)
    assert isinstance(made, Imported)
    assert made.teacher == {"format": kind, "top_k": None, "compression": None}


def teacher_text(model: Any, expert: str, count: int = 40) -> tuple[list[int], list[list[int]], list[list[float]]]:
    """Ids of a text that the model writes, and its five most probable tokens behind each of them."""
    tokenizer = load_tokenizer(find_model(expert))
    ids = tokenizer("Ann has 3 apples and buys 4 more. How many apples does she have?")["input_ids"]
    with torch.no_grad():
        for _ in range(count):
            ids = [*ids, int(model(torch.tensor([ids])).logits[0, -1].argmax())]
        values, tokens = model(torch.tensor([ids])).logits[0].log_softmax(-1).topk(5)
    return ids, tokens.tolist(), values.tolist()


@pytest.mark.parametrize("case", ["next", "own", "captured"])
def test_the_alignment_is_that_of_the_data(model: Any, expert: str, tmp_path: Path, case: str) -> None:
    """Entry i is about the next token; or about token i; or, as vLLM captures, there is none for the first token."""
    ids, tokens, values = teacher_text(model, expert)
    row: Row = {"input_ids": ids, "token_ids": tokens, "top_values": values}
    if case == "own":
        row |= {"token_ids": [[0, 1, 2, 3, 4], *tokens[:-1]], "top_values": [[-1.6] * 5, *values[:-1]]}
    if case == "captured":
        row |= {"token_ids": tokens[:-1], "top_values": values[:-1]}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    told = import_samples(file, tmp_path / "in", expert=expert, source_format="distillkit")
    labels = load_labels(tmp_path / "in", 4096)[1]
    assert told["aligned"] == ("own" if case == "own" else "next")
    assert len(labels) == len(ids) - 1
    for prefix, label in described(labels).items():
        at = len(prefix) - 1
        weights = np.exp(values[at]) / np.exp(values[at]).sum()
        assert label == pytest.approx(dict(zip(tokens[at], weights.tolist(), strict=True)), abs=2e-5)


def test_labels_of_transformers_say_which_tokens_to_learn(model: Any, expert: str, tmp_path: Path) -> None:
    """Behind a prompt of 12 tokens: the entry before the first token of the answer is about it."""
    ids, tokens, values = teacher_text(model, expert)
    row: Row = {"input_ids": ids, "target_token_ids": tokens, "target_logprobs": values}
    row["labels"] = [-100] * 12 + ids[12:]
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    import_samples(tmp_path / "rows.jsonl", tmp_path / "in", expert=expert, source_format="axolotl")
    found = described(load_labels(tmp_path / "in", 4096)[1])
    assert sorted(map(len, found)) == list(range(12, len(ids)))


def test_packed_texts_are_taken_apart(model: Any, expert: str, tmp_path: Path) -> None:
    ids, tokens, values = teacher_text(model, expert, 8)
    row = {
        "input_ids": ids * 2 + [0, 0],
        "attention_mask": [1] * len(ids) + [2] * len(ids) + [0, 0],
        "token_ids": tokens * 2 + tokens[:2],
        "top_values": values * 2 + values[:2],
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    told = import_samples(tmp_path / "rows.jsonl", tmp_path / "in", expert=expert, source_format="distillkit")
    assert (told["rollouts"], told["rows"]) == (2, 2 * (len(ids) - 1))


@pytest.mark.parametrize("version", [1, 2])
def test_chats_of_axolotl(expert: str, model: Any, tmp_path: Path, version: int) -> None:
    """Entry j is about token j of the answer, behind the prompt of the chat template."""
    tokenizer = load_tokenizer(find_model(expert))
    chat = [
        {"role": "system", "content": "Think."},
        {"role": "user", "content": "What is 3 + 4?"},
        {"role": "assistant", "content": "3 + 4 = 7"},
    ]
    prompt = tokenizer.apply_chat_template(chat[:-1], add_generation_prompt=True, return_dict=False)
    answer = tokenizer(chat[-1]["content"])["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    logits.scatter_(1, torch.tensor(answer)[:, None], 50.0)  # a teacher that would write this answer
    values, tokens = logits.log_softmax(-1).topk(3)
    row: Row = {"messages": chat, "logprobs": values.tolist(), "target_token_ids": tokens.tolist()}
    if version == 1:
        pairs = zip(row.pop("target_token_ids"), row["logprobs"], strict=True)
        row["logprobs"] = [
            [{"token": f"token_id:{token}", "logprob": value} for token, value in zip(*pair, strict=True)]
            for pair in pairs
        ]
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    told = import_samples(tmp_path / "rows.jsonl", tmp_path / "in", expert=expert, source_format="axolotl")
    labels = load_labels(tmp_path / "in", 4096)[1]
    assert told["share_of_text"] == 1.0
    assert list(described(labels)) == [(*prompt, *answer[:at]) for at in range(len(answer))]
    (table,) = read_samples(tmp_path / "in")[1].tables("rollouts")
    assert table["question"].to_pylist() == ["What is 3 + 4?"]


def test_fewer_tokens_of_each_label(run_folder: Path, expert: str, tmp_path: Path) -> None:
    export_samples(run_folder, tmp_path / "rows.parquet", to="distillkit")
    told = import_samples(
        tmp_path / "rows.parquet", tmp_path / "in", expert=expert, source_format="distillkit", top_k=1
    )
    assert told["max_support"] == 1
    assert told["single_token_labels"] == told["rows"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"top_values": [[0.0]]}, "belong together"),
        ({"token_ids": [[10**6] * 2] * 3}, "must be a token id of"),
        ({"token_ids": [[7, 7]] * 3}, "none may come twice"),
        ({"top_values": [[float("nan"), 0.0]] * 3}, "must be numbers"),
        ({"top_values": [[-1.0, -1.0, -1.0]] * 3}, "one number for each token"),
        ({"input_ids": [5, "six", 7]}, "not a list of token ids"),
        ({"input_ids": [5, 10**6, 7]}, "input id 1000000 is no token id"),
        ({"token_ids": None}, "no log-probabilities of DistillKit"),
        ({"labels": [1]}, "belong together"),
        ({"attention_mask": [1]}, "belong together"),
        ({"labels": [-100] * 3}, "no position with log-probabilities"),
    ],
)
def test_rows_that_break_the_format_are_refused_and_leave_nothing(
    expert: str, tmp_path: Path, change: Row, said: str
) -> None:
    row: Row = {"input_ids": [5, 6, 7], "token_ids": [[6, 8]] * 3, "top_values": [[-0.7, -0.7]] * 3, **change}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    with pytest.raises(SampleFormatError, match=said):
        import_samples(file, tmp_path / "in", expert=expert, source_format="distillkit")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


_VALUES = st.none() | st.integers(-2, 9) | st.floats() | st.text(max_size=2)
_ENTRIES = st.lists(st.lists(_VALUES, max_size=3) | _VALUES, max_size=4) | _VALUES
_ROWS = st.fixed_dictionaries(
    {"input_ids": st.lists(st.integers(0, 9), max_size=4) | _ENTRIES},
    optional=dict.fromkeys(
        (
            "token_ids", "top_values", "target_token_ids", "target_logprobs", "target_mask", "labels",
            "attention_mask", "compressed_logprobs", "bytepacked_indices",
        ),
        _ENTRIES,
    ),
)  # fmt: skip


@pytest.mark.parametrize("kind", ["axolotl", "distillkit"])
@given(row=_ROWS)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_row_is_read_or_a_format_error(kind: Any, expert: str, row: Row) -> None:
    compression = Quantised(d=16, k=1, exact_k=1, residual_bins=[])
    reader = TeacherReader(kind, expert, load_tokenizer_once(expert), None, compression, None)
    try:
        for rollout, labels in reader.read([("row 1", row)]):
            assert all(sum(label.weights) == pytest.approx(1) for label in labels)
            assert max(label.position for label in labels) < len(rollout.response_ids)
    except SampleFormatError as error:
        assert "row 1" in str(error)


@cache
def load_tokenizer_once(expert: str) -> Any:
    return load_tokenizer(find_model(expert))


# --- DistillKit's compression ---


RECOMMENDED = {
    "d": 3000, "k": 24, "exact_k": 8, "exact_dtype": "bfloat16", "polynomial_terms": [0, 1, 2, 3, 4, "sqrt"],
    "term_dtype": "float32", "residual_bins": [], "delta_encoding": False,
}  # fmt: skip
WITH_BINS = {
    **RECOMMENDED, "exact_dtype": "float32", "delta_encoding": True, "polynomial_terms": [0, 1], "normalize_t": True,
    "residual_bins": [
        {"scale_dtype": "float16", "element_bits": 8, "num_elements": 6},
        {"scale_dtype": "bfloat16", "element_bits": 1, "num_elements": 5},
        {"scale_dtype": "float32", "element_bits": 3, "num_elements": 4},
    ],
}  # fmt: skip
LEGACY = {"vocab_size": 3000, "k": 24, "exact_k": 8, "polynomial_degree": 3, "with_sqrt_term": True}


@pytest.mark.parametrize("coding", [RECOMMENDED, WITH_BINS, {**WITH_BINS, "polynomial_terms": None}, LEGACY])
def test_compressed_rows_are_unpacked_as_distillkit_does(tmp_path: Path, coding: Row) -> None:
    compression = pytest.importorskip("distillkit.compression", reason="DistillKit is not installed")
    from distillkit.compression.config import LegacyLogitCompressionConfig

    (tmp_path / "compression_config.yaml").write_text(yaml.safe_dump(coding))
    if "d" in coding:
        compressor = compression.LogprobCompressor(compression.DistributionQuantizationConfig(**coding))
    else:
        compressor = compression.LogprobCompressor(legacy_config=LegacyLogitCompressionConfig(**coding))
    torch.manual_seed(0)
    values, tokens = (3 * torch.randn(1, 7, 3000)).log_softmax(-1).topk(24)
    packed = compressor.compress_from_sparse(tokens, values)
    expected_tokens, expected = compressor.decompress_to_sparse(packed)
    row = {name: value[0].tolist() for name, value in packed.items()}
    found_tokens, found = unpack("row 1", row, read_settings(tmp_path / "data.parquet", None))
    assert np.array_equal(found_tokens, expected_tokens[0].numpy())
    np.testing.assert_allclose(found, expected[0].float().numpy(), rtol=2e-5, atol=2e-4)


def test_hand_made_bytes_are_unpacked() -> None:
    """Two exact values in float16, a straight line for two more, and ids of 4 bits."""
    coding = Quantised(
        d=16, k=4, exact_k=2, exact_dtype="float16", polynomial_terms=[0, 1], term_dtype="float32",
        residual_bins=[], delta_encoding=False,
    )  # fmt: skip
    exact = np.array([-0.5, -1.0], "<f2").tobytes()
    line = np.array([-2.0, -0.25], "<f4").tobytes()
    tokens, values = coding.unpack({"compressed_logprobs": [list(exact + line)], "bytepacked_indices": [[0x3A, 0xF1]]})
    assert tokens.tolist() == [[3, 10, 15, 1]]
    assert values.tolist() == [[-0.5, -1.0, -2.0, -2.25]]


@pytest.mark.parametrize(
    ("coding", "said"),
    [
        (None, "nothing says how"),
        ({**RECOMMENDED, "exact_k": 23}, "does not fit the settings"),
        ({**RECOMMENDED, "exakt_k": 3}, "unknown key exakt_k"),
        ({"teacher": {"logprob_compressor": None}}, "no settings of a compression"),
        ("[", "cannot be read as YAML"),
    ],
)
def test_compressed_rows_need_their_settings(expert: str, tmp_path: Path, coding: Any, said: str) -> None:
    if coding is not None:
        text = coding if isinstance(coding, str) else yaml.safe_dump(coding)
        (tmp_path / "compression_config.yaml").write_text(text)
    row = {"input_ids": [5, 6], "compressed_logprobs": [[0] * 40] * 2, "bytepacked_indices": [[0] * 36] * 2}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(LightReasonerError, match=said):
        import_samples(tmp_path / "rows.jsonl", tmp_path / "in", expert=expert, source_format="distillkit")
    assert not (tmp_path / "in").exists()


def test_a_folder_of_parquet_files_is_read(run_folder: Path, expert: str, tmp_path: Path) -> None:
    folder = tmp_path / "captured"
    folder.mkdir()
    export_samples(run_folder, folder / "data_0.parquet", to="distillkit")
    export_samples(run_folder, folder / "data_1.parquet", to="distillkit")
    told = import_samples(folder, tmp_path / "in", expert=expert, source_format="distillkit")
    assert told["rows"] == 2 * len(load_labels(run_folder, 4096)[1])
    with pytest.raises(DataError, match="no file"):
        import_samples(tmp_path / "nothing", tmp_path / "other", expert=expert, source_format="distillkit")
