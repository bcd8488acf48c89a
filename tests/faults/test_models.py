"""Models that do not match each other, or that contain code."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lightreasoner.models.source import find_model

from .harness import count, lightr, refused, succeed
from .test_fingerprints import changed


class Canary:
    """Creates a file when unpickled."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self._file,))


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


def copied(model: Path, folder: Path) -> Path:
    shutil.copytree(model, folder)
    return folder


def edit_json(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_a_tokenizer_with_two_ids_swapped_is_refused(
    sampling: tuple[object, ...], random_amateur: Path, tmp_path: Path
) -> None:
    amateur = copied(random_amateur, tmp_path / "amateur")
    content = json.loads((amateur / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    names = {id_: token for token, id_ in vocabulary.items()}
    vocabulary[names[300]], vocabulary[names[301]] = 301, 300
    (amateur / "tokenizer.json").write_text(json.dumps(content))
    line = refused(*changed(sampling, amateur=amateur), tmp_path / "run")
    assert "2 of 640 ids differ (id 300 is" in line


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("embed_tokens", "q_proj"), ("lm_head",)])
@pytest.mark.parametrize("tied", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_tied_and_resized_embeddings_merge_exactly_or_are_refused(
    targets: tuple[str, ...], tied: bool, random_amateur: Path, sampling: tuple[object, ...], tmp_path: Path
) -> None:
    """The amateur has more logits than tokens. With tied weights, an update of one matrix does not update the other."""
    model = copied(random_amateur, tmp_path / "model")
    if not tied:
        weights = load_file(model / "model.safetensors")
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].flip(0).clone()
        save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
        edit_json(model / "config.json", tie_word_embeddings=False)
    run = tmp_path / "run"
    succeed(*changed(sampling, expert=model, amateur="miniature/base", max_questions=8), run)
    tuned = lightr(
        "finetune", "--model", model, "--data", run, "--steps", 4, "--learning-rate", 1e-2, "--lora-targets", *targets,
        "--dtype", "float32", "--out", run,
    )  # fmt: skip
    assert tuned.code == 0, tuned.error
    merged = lightr("merge", "--model", model, "--adapter", run, "--out", run / "merged")
    count(faults=1, survived=1)
    if merged.code == 0:
        assert json.loads((run / "merged/lightreasoner.json").read_text())["mean_kl"] < 1e-6
        assert AutoModelForCausalLM.from_pretrained(run / "merged").lm_head.weight.shape[0] == 664
    else:
        assert "is not base + adapter" in merged.last_line
        assert tied
        assert targets != ("q_proj", "v_proj")
        assert not (run / "merged").exists()


def test_pickled_weights_are_refused_and_not_read(
    sampling: tuple[object, ...], evaluating: tuple[object, ...], random_expert: Path, canary: Path, tmp_path: Path
) -> None:
    model = copied(random_expert, tmp_path / "model")
    torch.save(Canary(canary), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    for arguments in (changed(sampling, expert=model), changed(evaluating, model=model)):
        assert "pytorch_model.bin: pickles, which can run code" in refused(*arguments, tmp_path / "run")
    assert not canary.exists()


def test_a_pickle_beside_safetensors_is_not_read(
    evaluating: tuple[object, ...], random_expert: Path, canary: Path, tmp_path: Path
) -> None:
    model = copied(random_expert, tmp_path / "model")
    for name in ("pytorch_model.bin", "model.pt", "training_args.bin"):
        torch.save(Canary(canary), model / name)
    succeed(*changed(evaluating, model=model, max_items=2), tmp_path / "run")
    assert not canary.exists()
    count(bad_inputs=1)


def test_a_pickled_adapter_is_refused(merging: tuple[object, ...], tuned: Path, canary: Path, tmp_path: Path) -> None:
    adapter = copied(tuned / "finetune/adapter", tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").unlink()
    torch.save(Canary(canary), adapter / "adapter_model.bin")
    assert "only adapter_model.bin: a pickle" in refused(*changed(merging, adapter=adapter), tmp_path / "merged")
    assert not canary.exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
def test_a_foreign_checkpoint_runs_no_code(
    name: str, tuning: tuple[object, ...], tuned: Path, canary: Path, tmp_path: Path
) -> None:
    """Its hashes are valid, because an attacker can write them too."""
    from lightreasoner.runs.files import file_hash

    out = copied(tuned, tmp_path / "run")
    shutil.rmtree(out / "finetune/adapter")
    (out / "finetune/result.json").unlink()
    for step in (8, 12):
        folder = out / f"finetune/checkpoint-{step}"
        torch.save(Canary(canary), folder / name)
        edit_json(folder / "complete.json", **{name: file_hash(folder / name)})
    (out / "finetune/checkpoint-12/complete.json").unlink()
    ended = lightr(*tuning, out)
    count(bad_inputs=1)
    assert not canary.exists()
    assert ended.code == (0 if name == "training_args.bin" else 1), ended.error


@pytest.mark.parametrize("stage", ["sampling", "evaluating"])
def test_model_code_runs_only_with_the_flag(
    stage: str, request: pytest.FixtureRequest, random_expert: Path, canary: Path, tmp_path: Path
) -> None:
    model = copied(random_expert, tmp_path / "model")
    edit_json(
        model / "config.json",
        model_type="no_such_type",
        auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
    )
    edit_json(model / "tokenizer_config.json", auto_map={"AutoTokenizer": ["code.Tokenizer", None]})
    (model / "code.py").write_text(f"open({str(canary)!r}, 'w')\nraise ValueError('ran')\n")
    flag = "expert" if stage == "sampling" else "model"
    arguments = changed(request.getfixturevalue(stage), **{flag: model})
    assert "cannot load" in refused(*arguments, tmp_path / "run")
    assert not canary.exists()
    asked = lightr(*arguments[:-1], "--trust-remote-code", "--out", tmp_path / "run")
    assert canary.exists()  # so the canary detects code that runs
    assert "running code of" in asked.error
    assert "code.py" in asked.error


def test_hub_code_needs_a_pinned_commit(tmp_path: Path) -> None:
    from lightreasoner.config.sections import MachineSettings
    from lightreasoner.errors import ModelError
    from lightreasoner.models.loading import load_tokenizer
    from lightreasoner.models.source import ModelSource

    source = ModelSource("owner/name", tmp_path, commit="a" * 40, revision="main")
    with pytest.raises(ModelError, match=f"Read the code at commit {'a' * 40}, and pin it"):
        load_tokenizer(source, MachineSettings(trust_remote_code=True))
    pinned = ModelSource("owner/name", tmp_path, commit="a" * 40, revision="a" * 40)
    with pytest.raises(ModelError, match="cannot load the tokenizer"):
        load_tokenizer(pinned, MachineSettings(trust_remote_code=True))


def test_the_help_explains_trust_remote_code() -> None:
    help_text = " ".join(succeed("sample", "--help").out.replace("│", " ").split())
    assert "Run Python code from a model repository, with all your rights" in help_text
    assert "runs only at a commit given as revision" in help_text


def edit_weights(model: Path, edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    weights = edit(load_file(model / "model.safetensors"))
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("command", ["sample", "evaluate", "choices", "inspect", "doctor"])
def test_no_command_goes_on_with_random_weights(
    command: str,
    sampling: tuple[object, ...],
    evaluating: tuple[object, ...],
    random_expert: Path,
    random_amateur: Path,
    tmp_path: Path,
) -> None:
    model = copied(random_amateur, tmp_path / "model")
    edit_weights(model, lambda weights: {f"_orig_mod.{name}": weight for name, weight in weights.items()})
    row = {"question": "2 + 2?", "choices": {"text": ["4", "5"], "label": ["A", "B"]}, "answerKey": "A"}
    (tmp_path / "arc_challenge").mkdir()
    (tmp_path / "arc_challenge" / "test.jsonl").write_text(json.dumps(row))
    out = ("--out", tmp_path / "run")
    arguments: dict[str, tuple[object, ...]] = {
        "sample": (*changed(sampling, amateur=model)[:-1], *out),
        "evaluate": (*changed(evaluating, model=model)[:-1], *out),
        "choices": (*changed(evaluating, model=model, benchmarks="arc_challenge")[:-1], "--data-dir", tmp_path, *out),
        "inspect": ("inspect", "2 + 2?", "--expert", random_expert, "--amateur", model, "--max-new-tokens", 3),
        "doctor": ("doctor", "--expert", random_expert, "--amateur", model),
    }
    if command == "doctor":
        ended = lightr(*arguments[command])
        assert ended.code == 1
        said = ended.out
    else:
        said = refused(*arguments[command])
    assert "lacks 27 of 27 weights" in said
    assert "torch.compile" in said
    assert not list(tmp_path.glob("run/**/*.parquet"))


@pytest.mark.parametrize("command", ["finetune", "merge"])
def test_training_and_merging_do_not_go_on_with_random_weights(
    command: str, tuning: tuple[object, ...], merging: tuple[object, ...], random_expert: Path, tmp_path: Path
) -> None:
    """The weights that the adapter's own record names; one is lost between the stages."""
    model = copied(random_expert, tmp_path / "model")
    run, lost = tmp_path / "run", "model.layers.1.mlp.up_proj.weight"
    edit_weights(model, lambda weights: {name: weight for name, weight in weights.items() if name != lost})
    if command == "finetune":
        data = copied(Path(str(tuning[tuning.index("--data") + 1])) / "sample", tmp_path / "data" / "sample").parent
        manifest = data / "sample" / "manifest.json"
        whole, damaged = (find_model(str(source)).files()["model.safetensors"] for source in (random_expert, model))
        manifest.write_text(manifest.read_text().replace(whole, damaged))
        said = refused(*changed(tuning, model=model, data=data), run)
    else:
        adapter = Path(str(merging[merging.index("--adapter") + 1])) / "finetune" / "adapter"
        said = refused(*changed(merging, model=model, adapter=copied(adapter, tmp_path / "adapter")), run)
    assert f"lacks 1 of 27 weights ({lost})" in said


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cuda:x"])
def test_a_device_that_is_not_there_is_one_line(device: str, sampling: tuple[object, ...], tmp_path: Path) -> None:
    line = refused(*sampling[:-1], "--device", device, "--out", tmp_path / "run")
    assert f"device {device} is not" in line
    assert len(line) < 150


def test_a_target_that_is_no_module_is_named_before_the_training(tuning: tuple[object, ...], tmp_path: Path) -> None:
    line = refused(*tuning[:-1], "--lora-targets", "q_proj", "v_porj", "--out", tmp_path / "run")
    assert "no LoRA on v_porj" in line
    assert "did you mean v_proj?" in line


def test_contradicting_generation_settings_stop_no_command(
    sampling: tuple[object, ...],
    evaluating: tuple[object, ...],
    merging: tuple[object, ...],
    random_expert: Path,
    tmp_path: Path,
) -> None:
    model = copied(random_expert, tmp_path / "model")
    edit_json(model / "generation_config.json", do_sample=False, temperature=0.9, num_return_sequences=3)
    succeed(*changed(sampling, expert=model, max_questions=4), tmp_path / "run")
    succeed(*changed(evaluating, model=model, max_items=2), tmp_path / "evaluated")
    found = succeed(*changed(merging, model=model), tmp_path / "merged")
    assert "(num_return_sequences, temperature); the merged model is saved without them" in found.error
    count(bad_inputs=3)
