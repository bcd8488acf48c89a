"""What a push sends, says and asks; and that what is pulled is what was pushed."""

import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import yaml
from huggingface_hub import DatasetCard, ModelCard, parse_eval_result_entries, snapshot_download
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lightreasoner.config import PushConfig, RunConfig
from lightreasoner.errors import ConfigError, DataError, HubUnreachable, LightReasonerError, RunCorrupted
from lightreasoner.evaluation.toolkit_import import import_toolkit
from lightreasoner.pipeline import run
from lightreasoner.push import check_push, outline, push, push_lines
from lightreasoner.report import report
from lightreasoner.runs.stage import read_stage
from lightreasoner.samples.folder import read_samples

from ..evaluation.helpers import line, write
from ..fake_hub import WRITE, FakeHub, Fault, sha256
from .conftest import SECRET

WEIGHTS = "adapter_model.safetensors"


def settings(run: Path, *what: str, **changes: Any) -> PushConfig:
    return PushConfig.checked({"run": run, "to": "ann/toy", "what": what or ("adapter",), "yes": True, **changes})


def pulled(kind: str = "model", **options: Any) -> Path:
    return Path(snapshot_download("ann/toy", repo_type=kind, **options))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_tells_nothing(files: Mapping[str, bytes], *more: str) -> None:
    """No path of this machine and no token in anything that was sent."""
    for name, content in files.items():
        for secret in (SECRET, "/tmp/", str(Path.home()) + "/", WRITE, *more):
            assert secret.encode() not in content, f"{secret} in {name}"


# --- Push and pull ---


def test_an_adapter_is_pulled_as_it_was_pushed(folder: Path, hub: FakeHub, config: RunConfig) -> None:
    result = push(settings(folder))["adapter"]
    assert result["private"]
    assert hub.model().private
    there = pulled(revision=result["tag"])
    assert there.name == result["commit"]
    adapter = folder / "finetune" / "adapter"
    assert (there / WEIGHTS).read_bytes() == (adapter / WEIGHTS).read_bytes()
    before, after = (json.loads((place / "adapter_config.json").read_text()) for place in (adapter, there))
    assert {name for name in after if before[name] != after[name]} == {"base_model_name_or_path"}
    assert after["base_model_name_or_path"] == "expert"
    base = AutoModelForCausalLM.from_pretrained(config.expert)
    loaded = PeftModel.from_pretrained(base, there)
    merged = AutoModelForCausalLM.from_pretrained(folder / "merged")
    ids = torch.arange(8)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, merged(ids).logits, rtol=1e-4, atol=1e-4)
    assert set(hub.model().files) == {".gitattributes", "README.md", "adapter_config.json", WEIGHTS}
    assert_tells_nothing(hub.model().files)


def test_a_merged_model_is_pulled_as_it_was_pushed(folder: Path, hub: FakeHub) -> None:
    push(settings(folder, "merged"))
    mine, there = files_of(folder / "merged"), files_of(pulled())
    rewritten = {"README.md", "lightreasoner.json"}
    assert there.keys() == {*mine, ".gitattributes"}
    assert {name: there[name] for name in mine if name not in rewritten} == {
        name: content for name, content in mine.items() if name not in rewritten
    }
    before, after = json.loads(mine["lightreasoner.json"]), json.loads(there["lightreasoner.json"])
    assert after == {**before, "base": "expert"}
    assert AutoModelForCausalLM.from_pretrained(pulled()).num_parameters() > 0
    assert_tells_nothing(hub.model().files)


def test_samples_are_pulled_as_they_were_pushed(folder: Path, hub: FakeHub, tmp_path: Path) -> None:
    push(settings(folder, "samples"))
    mine, there = files_of(folder / "sample"), files_of(pulled("dataset"))
    assert there.keys() == {*mine, ".gitattributes"}
    rewritten = {"README.md", "manifest.json"}
    assert {name: there[name] for name in mine if name not in rewritten} == {
        name: content for name, content in mine.items() if name not in rewritten
    }
    assert_tells_nothing(hub.data().files)
    made, stage = read_samples(folder)
    again, copy = read_samples(pulled("dataset"))
    assert (again.made_by, again.expert, again.amateur) == ("sample", "expert", "amateur")
    assert again.expert_files == made.expert_files, "fine-tuning compares the model by its content"
    assert (copy.digest, copy.result) == (stage.digest, stage.result)
    assert read_stage(pulled("dataset"))[0] == json.loads(json.dumps(copy.manifest["fingerprint"]))


def test_the_data_sets_library_reads_samples_from_the_folder_and_from_the_hub(
    folder: Path, hub: FakeHub, tmp_path: Path
) -> None:
    push(settings(folder, "samples"))
    _, stage = read_samples(folder)
    rows = {kind: sum(table.num_rows for table in stage.tables(kind)) for kind in ("rollouts", "steps")}
    for place in (str(folder / "sample"), "ann/toy"):
        rollouts = datasets.load_dataset(place, split="train", cache_dir=str(tmp_path / "cached"))
        labels = datasets.load_dataset(place, "labels", split="train", cache_dir=str(tmp_path / "cached"))
        assert (len(rollouts), len(labels)) == (rows["rollouts"], rows["steps"])
        assert {"question", "response_ids", "kl"} <= set(rollouts.column_names)
        assert {"position", "token_ids", "weights"} <= set(labels.column_names)
        assert sum(labels[0]["weights"]) == pytest.approx(1, abs=1e-5)


def test_adapter_and_samples_go_to_a_model_and_a_data_set_of_one_name(folder: Path, hub: FakeHub) -> None:
    result = push(settings(folder, "adapter", "samples", tag="v1"))
    assert (hub.model().private, hub.data().private) == (True, True)
    assert (set(hub.model().tags), set(hub.data().tags)) == ({"v1-adapter"}, {"v1-samples"})
    lines = push_lines(result)
    assert [text.partition(":")[0] for text in lines] == ["adapter", "samples"]
    assert all("private, http://" in text for text in lines)


def test_an_interrupted_push_of_samples_continues(folder: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightreasoner.data.hub.ATTEMPTS", 1)
    last = sha256((folder / "sample" / "steps-00001.parquet").read_bytes())
    hub.faults = [Fault(f"PUT /lfs/{last}", after=10, times=1000)]
    with pytest.raises(HubUnreachable):
        push(settings(folder, "samples"))
    hub.faults, before = [], len(hub.requests)
    push(settings(folder, "samples"))
    assert [one.path for one in hub.requests[before:] if one.method == "PUT"] == [f"/lfs/{last}"]
    assert files_of(pulled("dataset"))["ledger.jsonl"] == (folder / "sample" / "ledger.jsonl").read_bytes()


# --- Cards ---


def test_the_card_of_a_model_says_what_it_is(folder: Path, hub: FakeHub) -> None:
    hub.add("model", "org/base", {"README.md": b"---\nlicense: gemma\n---\n# base"})
    push(settings(folder, "merged", base_model="org/base"))
    text = hub.model().files["README.md"].decode()
    data = ModelCard(text).data
    assert data.to_dict().items() >= {
        "license": "gemma", "base_model": "org/base", "base_model_relation": "finetune",
        "library_name": "transformers", "pipeline_tag": "text-generation", "metrics": ["accuracy"],
    }.items()  # fmt: skip
    assert "lightreasoner" in (data.tags or [])
    (result,) = data.eval_results or []
    assert (data.model_name, result.dataset_type, result.metric_type) == ("toy", "arithmetic", "accuracy")
    assert "4 of 2000 items, 95 % interval" in (result.metric_name or "")
    assert "base model org/base: gemma" in text
    assert "| Arithmetic | chat | 4 |" in text
    assert "Of a part of the items: Arithmetic has 2000." in text
    for command in ("lightr sample --expert expert", "lightr finetune --model expert", "lightr merge --model org/base"):
        assert command in text
    assert 'AutoModelForCausalLM.from_pretrained("ann/toy")' in text


def test_the_card_of_an_adapter_names_its_base(folder: Path, hub: FakeHub) -> None:
    hub.add("model", "org/base", {"README.md": b"---\nlicense: mit\n---\n# base"})
    push(settings(folder, base_model="org/base"))
    text = hub.model().files["README.md"].decode()
    data = ModelCard(text).data
    assert (data.base_model, data.library_name, data.license) == ("org/base", "peft", "mit")
    assert data.get("base_model_relation") == "adapter"
    assert json.loads(hub.model().files["adapter_config.json"])["base_model_name_or_path"] == "org/base"
    assert "| Arithmetic | chat | 4 |" in text, "the figures of the merged model beside it, which was made of it"


def test_a_run_on_models_and_problems_of_the_hub_names_them(folder: Path, hub: FakeHub) -> None:
    hub.add("model", "org/base", {"README.md": b"---\nlicense: llama3.1\n---\n# base"})
    hub.add("dataset", "openai/gsm8k", {"README.md": b"---\nlicense: mit\n---\n# GSM8K"})
    for stage, place in (("finetune", ("record", "samples")), ("sample", ("record",))):
        manifest = folder / stage / "manifest.json"
        facts = json.loads(manifest.read_text())
        made = facts[place[0]] if len(place) == 1 else facts[place[0]][place[1]]
        made |= {"expert": "org/base", "dataset": "gsm8k"}
        made["settings"] |= {"expert": "org/base", "dataset": "gsm8k"}
        if stage == "finetune":
            facts["record"]["settings"] |= {"model": "org/base", "model_revision": "v1"}
        manifest.write_text(json.dumps(facts))
    push(settings(folder, "adapter", "samples"))
    data = ModelCard(hub.model().files["README.md"].decode()).data
    assert (data.base_model, data.datasets, data.license) == ("org/base", ["openai/gsm8k"], "llama3.1")
    adapter = json.loads(hub.model().files["adapter_config.json"])
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == ("org/base", "v1")
    text = hub.data().files["README.md"].decode()
    metadata = DatasetCard(text).data.to_dict()
    assert (metadata["license"], metadata["source_datasets"]) == ("mit", ["openai/gsm8k"])
    assert "expert org/base: llama3.1" in text


def test_the_card_of_samples_has_configurations_features_and_licences(folder: Path, hub: FakeHub) -> None:
    push(settings(folder, "samples"))
    text = hub.data().files["README.md"].decode()
    data = DatasetCard(text).data.to_dict()
    assert data["license"] == "apache-2.0", "that of the generated problems"
    assert [one["config_name"] for one in data["configs"]] == ["rollouts", "labels"]
    assert data["size_categories"] == ["n<1K"]
    for table in (table for kind in ("rollouts", "steps") for table in read_samples(folder)[1].tables(kind)):
        assert all(f"| `{name}` | `" in text for name in table.column_names)
    assert "expert expert: licence unknown" in text
    assert "lightr sample --expert expert --amateur amateur" in text


def test_figures_of_all_items_go_to_the_leaderboard(folder: Path, hub: FakeHub, tmp_path: Path) -> None:
    import_toolkit(
        write(tmp_path / "all.jsonl", *map(line, range(1319))),
        folder / "evaluate" / "merged",
        benchmark="gsm8k",
        model="m",
    )
    import_toolkit(
        write(tmp_path / "some.jsonl", *map(line, range(4))),
        folder / "evaluate" / "merged",
        benchmark="math500",
        model="m",
    )
    push(settings(folder))
    found = {name: content for name, content in hub.model().files.items() if name.startswith(".eval_results/")}
    assert list(found) == [".eval_results/gsm8k_chat.yaml"]
    (entry,) = parse_eval_result_entries(yaml.safe_load(found[".eval_results/gsm8k_chat.yaml"]))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("openai/gsm8k", "gsm8k", 100.0)
    assert "1319 of 1319 items, 95 % interval 99.7 to 100.0" in (entry.notes or "")
    names = [one.dataset_name for one in ModelCard(hub.model().files["README.md"].decode()).data.eval_results or []]
    assert {"GSM8K", "MATH-500", "Arithmetic"} == set(names)
    assert_tells_nothing(hub.model().files)


def test_figures_of_another_model_are_left_out(folder: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = folder / "evaluate" / "merged" / "chat" / "arithmetic" / "answers" / "manifest.json"
    facts = json.loads(manifest.read_text())
    facts["fingerprint"]["model_sha256"] = "0" * 64
    manifest.write_text(json.dumps(facts))
    push(settings(folder, "merged"))
    assert "is of another model than the one that is sent" in capsys.readouterr().err
    assert "## Evaluation" not in hub.model().files["README.md"].decode()
    assert not ModelCard(hub.model().files["README.md"].decode()).data.eval_results


def test_hostile_settings_stay_text(folder: Path, hub: FakeHub) -> None:
    hostile = "```\n</code><script>alert(1)</script>\n---\nlicense: mit | [x](http://evil)"
    manifest = folder / "finetune" / "manifest.json"
    facts = json.loads(manifest.read_text())
    facts["record"]["samples"]["cue"] = facts["record"]["samples"]["settings"]["cue"] = hostile
    manifest.write_text(json.dumps(facts))
    push(settings(folder))
    text = hub.model().files["README.md"].decode()
    assert text.count("\n---\n") == 2, "the end of the metadata, and a line within the block of commands"
    head, _, commands = text.partition("## Made by these commands")
    assert "<script>" not in head
    assert "\n````\n" in commands
    assert ModelCard(text).data.license == "unknown"


# --- Licences, questions, visibility ---


def test_size_licence_and_readers_are_said_before_anything_is_sent(
    folder: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lightreasoner.push._is_somebody_there", lambda: True)
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    with pytest.raises(ConfigError, match="nothing was sent"):
        push(settings(folder, yes=False))
    told = capsys.readouterr().err
    assert "adapter of expert: 3 files, " in told
    assert "(model; new, private)" in told
    assert "base model expert: licence unknown (its folder has no card)" in told
    assert "warning: the licence is unknown, and the card says so" in told
    assert "training problems arithmetic: apache-2.0" in told
    assert "to ann/toy? [y/N]" in told
    assert hub.repositories == {}
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    push(settings(folder, yes=False))
    assert hub.model().private


def test_without_a_terminal_nothing_is_sent_unasked(folder: Path, hub: FakeHub) -> None:
    with pytest.raises(ConfigError, match="no terminal to ask at: nothing was sent. Add --yes"):
        push(settings(folder, yes=False))
    assert hub.repositories == {}


def test_the_owner_can_name_the_licence(folder: Path, hub: FakeHub) -> None:
    push(settings(folder, "samples", license="cc-by-4.0"))
    text = hub.data().files["README.md"].decode()
    assert DatasetCard(text).data.license == "cc-by-4.0"
    assert "problems arithmetic: apache-2.0" in text, "the source's licence is said all the same"


def test_a_base_model_that_is_not_on_the_hub_is_not_named_as_one(folder: Path, hub: FakeHub) -> None:
    push(settings(folder, base_model="org/gone"))
    data = ModelCard(hub.model().files["README.md"].decode()).data
    assert (data.base_model, data.license) == (None, "unknown")


def test_a_public_push_says_so(folder: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert not push(settings(folder, public=True))["adapter"]["private"]
    assert "(model; new, public: everybody can read it)" in capsys.readouterr().err


# --- What cannot be sent ---


@pytest.mark.parametrize(
    ("what", "lacks", "error"),
    [
        ("adapter", "finetune/adapter/adapter_model.safetensors", DataError),
        ("adapter", "finetune/result.json", RunCorrupted),
        ("merged", "merged/lightreasoner.json", DataError),
        ("merged", "merged/model.safetensors", LightReasonerError),
        ("samples", "sample/result.json", RunCorrupted),
        ("samples", "sample/steps-00000.parquet", RunCorrupted),
    ],
)
def test_what_is_unfinished_or_damaged_is_not_sent(
    what: str, lacks: str, error: type[Exception], folder: Path, hub: FakeHub
) -> None:
    (folder / lacks).unlink()
    with pytest.raises(error):
        push(settings(folder, what))
    assert hub.repositories == {}


def test_no_pickle_and_no_link_is_sent(folder: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    merged = folder / "merged"
    for name in ("training_args.bin", "optimizer.pt", "model.pkl", ".hidden.json"):
        (merged / name).write_bytes(b"pickle")
    push(settings(folder, "merged"))
    assert not [name for name in hub.model().files if name.endswith((".bin", ".pt", ".pkl")) or "hidden" in name]
    assert "training_args.bin is not sent" in capsys.readouterr().err
    (merged / "vocab.json").symlink_to("/etc/hostname")
    with pytest.raises(DataError, match="vocab.json is a link"):
        push(settings(folder, "merged"))


def test_paths_in_the_settings_of_a_tokenizer_are_shortened(folder: Path, hub: FakeHub) -> None:
    file = folder / "merged" / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "name_or_path": f"/home/{SECRET}/models/expert"}))
    push(settings(folder, "merged"))
    assert json.loads(hub.model().files["tokenizer_config.json"])["name_or_path"] == "expert"


# --- Save, outline, record, runs ---


def test_what_would_be_sent_can_be_saved_without_a_hub(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = tmp_path / "saved"
    result = push(settings(folder, "merged", "samples", save=out, yes=False))
    assert {path.name for path in out.iterdir()} == {"merged", "samples"}
    assert files_of(out / "merged")["model.safetensors"] == files_of(folder / "merged")["model.safetensors"]
    assert read_samples(out / "samples")[1].digest == read_samples(folder)[1].digest
    assert_tells_nothing(files_of(out))
    assert push_lines(result)[0].startswith("merged: ")
    with pytest.raises(DataError, match="exists already, and is not overwritten"):
        push(settings(folder, "samples", save=out))


def test_an_outline_sends_nothing(folder: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    outline(settings(folder, "samples"))
    told = capsys.readouterr().err
    assert "  rollouts-00000.parquet" in told
    assert "samples of expert: 8 questions" in told
    assert hub.repositories == {}


def test_the_run_folder_remembers_where_it_was_sent(folder: Path, hub: FakeHub) -> None:
    push(settings(folder))
    push(settings(folder, "samples"))
    push(settings(folder))
    entries = json.loads((folder / "pushed.json").read_text())
    assert [(one["what"], one["to"], one["private"]) for one in entries] == [
        ("samples", "ann/toy", True), ("adapter", "ann/toy", True),
    ]  # fmt: skip
    shown = report(folder).environment
    assert shown["on the Hub"].startswith(f"samples: {hub.url}/datasets/ann/toy/tree/first-")
    assert WRITE not in json.dumps(entries)


def test_a_run_checks_before_it_begins_that_it_can_push(config: RunConfig, hub: FakeHub) -> None:
    asked = config.model_copy(update={"push_to": "ann/toy"})
    with pytest.raises(ConfigError, match="--push-to ann/toy: size and licence must be confirmed.*Add --push.yes"):
        check_push(asked)
    sure = asked.model_copy(update={"push": asked.push.model_copy(update={"yes": True})})
    check_push(sure)
    assert hub.repositories == {}
    hub.add("model", "ann/toy", {"model.safetensors": b"x"})
    with pytest.raises(LightReasonerError, match="is public"):
        check_push(sure)


@pytest.mark.usefixtures("templates_in_this_process")
def test_a_finished_run_is_pushed_by_its_own_command_again(config: RunConfig, hub: FakeHub) -> None:
    """The stages are finished, so nothing is computed; a push that failed is repeated by the same command."""
    sure = config.push.model_copy(update={"what": ("merged",), "yes": True})
    asked = config.model_copy(update={"push_to": "ann/toy", "push": sure})
    written = [(config.out / name).stat().st_mtime_ns for name in ("summary.json", "config.yaml")]
    hub.faults = [Fault("POST .*/commit/", 403, times=100)]
    with pytest.raises(LightReasonerError, match="the Hub refuses the push to ann/toy"):
        run(asked)
    hub.faults = []
    summary = run(asked)
    assert summary == json.loads((config.out / "summary.json").read_text())
    assert written == [(config.out / name).stat().st_mtime_ns for name in ("summary.json", "config.yaml")]
    assert len(hub.model().commits) == 2
    assert "model.safetensors" in hub.model().files
