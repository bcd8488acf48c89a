"""`lightr plan` and `lightr doctor`: estimates against real runs, and checks of model pairs."""

import json
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors import safe_open

from lightreasoner.config import DoctorConfig, RoundsSettings, RunConfig
from lightreasoner.doctor import examine
from lightreasoner.errors import ConfigError, HubUnreachable, ModelError
from lightreasoner.inference.footprint import footprint
from lightreasoner.inference.memory import free_memory
from lightreasoner.inference.speed import Passes, measure
from lightreasoner.miniature import model_path
from lightreasoner.models import precision
from lightreasoner.models.shape import Shape, read_config
from lightreasoner.pipeline import run
from lightreasoner.plan import memory_table, plan, plan_lines
from lightreasoner.recipes import load_recipe, recipe_names, resolve
from lightreasoner.runs.terminal import size


def config_for(out: Path, **changes: Any) -> RunConfig:
    recipe = load_recipe("miniature")
    sample = {**recipe["sample"], "max_questions": 64, "batch_size": 32, "max_new_tokens": 12}
    finetune = {**recipe["finetune"], "steps": 4}
    evaluate = {**recipe["evaluate"], "max_items": 40, "max_answer_tokens": 12}
    return RunConfig.checked(
        {**recipe, "sample": sample, "finetune": finetune, "evaluate": evaluate, "out": out, **changes}
    )


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", ["expert", "small"])
def test_the_number_of_parameters_matches_the_file(name: str) -> None:
    with safe_open(model_path(name) / "model.safetensors", framework="pt") as file:
        count = sum(file.get_tensor(key).numel() for key in file.keys())  # noqa: SIM118
    shape = Shape.of(read_config(f"miniature/{name}", None), name)
    assert shape.parameters == pytest.approx(count, rel=0.01)


def test_the_plan_says_how_much_is_sent_to_the_hub(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    unsent = plan(config, flops=1e12)
    assert unsent["push"] == {}
    assert not any("Hub" in line for line in plan_lines(unsent))
    push = config.push.model_copy(update={"what": ("merged", "samples")})
    result = plan(config.model_copy(update={"push_to": "ann/toy", "push": push}), flops=1e12)
    assert result["push"] == {what: result["disk"][what] for what in ("merged", "samples")}
    sent = f"merged {size(result['push']['merged'])}, samples {size(result['push']['samples'])}"
    assert f"to send to the Hub when the run is finished (--push-to): {sent}" in plan_lines(result)


def test_the_number_of_parameters_of_a_known_model() -> None:
    """Qwen2.5-Math-1.5B: 1.54 B parameters, 1.31 B of them outside the embedding (its model card)."""
    shape = Shape(151936, 1536, 8960, 28, 12, 2, 128, True, "bfloat16")
    assert shape.parameters == pytest.approx(1.54e9, rel=0.01)
    assert shape.parameters - 151936 * 1536 == pytest.approx(1.31e9, rel=0.01)
    assert shape.cache(1, 2) == 28 * 2 * 2 * 128 * 2


@pytest.mark.slow
def test_disk_matches_a_real_run_within_a_factor_of_two(tmp_path: Path) -> None:
    """The responses are so short that nearly all reach the limit, as a plan assumes."""
    config = config_for(tmp_path / "run")
    planned = plan(config, flops=1e12, prompt_tokens=70)["disk"]
    run(config)
    parts = {
        "samples": sum(path.stat().st_size for path in (config.out / "sample").glob("*.parquet")),
        "checkpoints": size_of(config.out / "finetune/checkpoint-4") * config.finetune.keep_checkpoints,
        "adapter": size_of(config.out / "finetune/adapter"),
        "merged": size_of(config.out / "merged"),
        "answers": sum(path.stat().st_size for path in (config.out / "evaluate").rglob("*.parquet")),
    }
    for name, taken in parts.items():
        assert taken / 2 < planned[name] < taken * 2.5, (name, planned[name], taken)
    assert sum(parts.values()) / 1.5 < planned["sum"] < sum(parts.values()) * 1.5


def test_the_cost_model_is_that_of_the_design(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    result = plan(config, flops=1e12, prompt_tokens=100)
    expert, amateur = result["models"]["expert_parameters"], result["models"]["amateur_parameters"]
    sample, finetune = result["stages"]["sample"], result["stages"]["finetune"]
    assert sample["flop"] == 64 * 112 * 2 * (
        expert + amateur
    )  # the expert generates and scores in one pass; the amateur scores
    # 4 steps of 16 labels; a rollout of 12 tokens has 6 labels, which are read to the position 12 · 6 / 7.
    assert finetune["tokens"] == 4 * 3 * (100 + 10)
    assert finetune["flop"] == finetune["tokens"] * 4 * expert
    assert sample["seconds"] == round(sample["flop"] / 1e12, 1)


def test_a_plan_of_rounds_repeats_sampling_and_training_and_adds_the_alarms(tmp_path: Path) -> None:
    config = config_for(tmp_path / "run")
    once, rounds = plan(config, flops=1e12), plan(config, flops=1e12, rounds=3)
    for name in ("sample", "finetune"):
        for part in ("tokens", "flop"):
            assert rounds["stages"][name][part] == 3 * once["stages"][name][part]
    # Before the first round and after each: 512 prompts, two greedy rollouts, eight answers. 64 problems are sampled.
    answer = (128 + config.evaluate.max_answer_tokens) / (128 + config.sample.max_new_tokens)
    expected = 4 * (2 + 8 * answer) * 512 / 64 * once["stages"]["sample"]["tokens"]
    assert rounds["stages"]["alarms"]["tokens"] == pytest.approx(expected)
    assert "evaluate" not in rounds["stages"]
    assert rounds["disk"]["samples"] == 4 * once["disk"]["samples"]
    assert rounds["disk"]["sum"] == sum(size for name, size in rounds["disk"].items() if name != "sum")
    assert any(line.startswith("alarms: at most") for line in plan_lines(rounds))
    fewer = config.model_copy(update={"rounds": RoundsSettings(held_back=64, answers=4)})
    stages = plan(fewer, flops=1e12, rounds=3)["stages"]
    assert stages["alarms"]["tokens"] == pytest.approx(4 * (2 + 4 * answer) * once["stages"]["sample"]["tokens"])
    assert stages["sample"] == rounds["stages"]["sample"]


def test_a_machine_that_is_too_small_gets_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plan(config_for(tmp_path), flops=1e12)["warnings"] == []
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10**6}))
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 10**6}))
    result = plan(config_for(tmp_path), flops=1e12)
    stages = ["sample", "finetune", "merge", "evaluate"]
    found = [warning.partition(" needs")[0] for warning in result["warnings"]]
    assert found == ["disk:", *(f"memory: {stage}" for stage in stages)]
    assert any("1 MB are free" in line for line in plan_lines(result))


def test_plan_refuses_wrong_settings_and_models_it_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for wrong, complaint in (
        ({"flops": 0.0}, "--flops 0 must be above 0"),
        ({"prompt_tokens": -1}, "--prompt-tokens -1: a prompt has"),
        ({"rounds": -1}, "--rounds -1: give the number"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            plan(config_for(tmp_path), **wrong)
    with pytest.raises(HubUnreachable, match="config.json of nobody/nothing"):
        plan(config_for(tmp_path, expert="nobody/nothing"))
    for content, complaint in (
        ("{", "no readable"),
        ("{}", "lacks a size"),
        ('{"num_experts": 8}', "mixture"),
        ('{"n_routed_experts": 64}', "mixture"),
        ('{"state_size": 16}', "layers without attention"),
        ('{"text_config": {"layer_types": ["linear_attention", "full_attention"]}}', "layers without attention"),
        ('{"mamba_d_ssm": 64, "num_attention_heads": 4}', "layers without attention"),
        ('{"kv_lora_rank": 512}', "compressed keys"),
        ('{"n_embd": 32, "hidden_size": 32, "num_attention_heads": [4, 2]}', "no number for .*num_attention_heads"),
    ):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ModelError, match=complaint):
            plan(config_for(tmp_path, expert=str(tmp_path)))


def test_a_plan_of_this_machine_measures_it(tmp_path: Path) -> None:
    """Twice the responses and twice the steps take about twice as long; noise may change each by half."""
    config = config_for(tmp_path)
    short = plan(config, prompt_tokens=70)
    assert short["assumptions"]["flop_per_second"] is None
    assert all(stage["seconds"] > 0 for stage in short["stages"].values())
    assert short["seconds"] == pytest.approx(sum(stage["seconds"] for stage in short["stages"].values()), abs=0.3)
    more = {"sample": config.sample.model_copy(update={"max_questions": 64 * 40})}
    more["finetune"] = config.finetune.model_copy(update={"steps": 4 * 40})
    long = plan(config.model_copy(update=more), prompt_tokens=70)
    for stage in ("sample", "finetune"):
        assert long["stages"][stage]["seconds"] > 5 * short["stages"][stage]["seconds"] - 5
    assert any("measured on this machine (cpu)" in line for line in plan_lines(short))


def test_the_measured_speed_follows_the_sizes() -> None:
    """A model of 4 times the width and 6 times the layers takes longer in every pass."""
    small = Shape(640, 64, 128, 2, 4, 2, 16, True, "float32")
    large = Shape(6400, 256, 1024, 12, 4, 2, 64, True, "float32")
    passes = Passes(text=60, decoded=((16, 50),), trained=200)
    fast, slow = (measure(shape, torch.float32, torch.device("cpu"), passes) for shape in (small, large))
    assert slow.decode[0] > 2 * fast.decode[0]
    assert slow.token > 2 * fast.token
    assert slow.train > 2 * fast.train
    assert slow.contrast > 2 * fast.contrast


def test_the_models_of_the_bundled_recipes_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in recipe_names():
        result = plan(RunConfig.checked({**load_recipe(name), "out": tmp_path}), flops=1e13)
        assert result["models"]["expert_parameters"] > result["models"]["amateur_parameters"] * 0.9
    for model, billions in (  # their model cards
        ("Qwen/Qwen2.5-0.5B", 0.49),
        ("Qwen/Qwen2.5-Math-1.5B", 1.54),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", 1.78),
        ("Qwen/Qwen2.5-Math-7B", 7.62),
    ):
        assert Shape.of(read_config(model, None), model).parameters == pytest.approx(1e9 * billions, rel=0.01)
    with pytest.raises(HubUnreachable):
        read_config("Qwen/Qwen2.5-Math-7B", "v2")  # another revision may have other sizes


def test_the_memory_of_one_after_the_other_and_of_smaller_trainings_is_smaller() -> None:
    config = RunConfig.checked(load_recipe("qwen2.5-math-7b"))
    expert, amateur = (Shape.of(read_config(name, None), name) for name in (config.expert, config.amateur))
    memory = footprint(config, expert, amateur, 128, {"sample": 2, "finetune": 2}, "cuda")
    choices = memory.choices
    assert choices["residency = sequential"] < choices["residency = together"] == memory.stages["sample"]
    assert choices["residency = sequential"] > 2 * expert.parameters
    four_bits = choices["load_in_4bit = true"]
    assert 2 * expert.parameters - (memory.stages["finetune"] - four_bits) < 0.4 * 2 * expert.parameters
    assert choices["gradient_checkpointing = true"] < memory.stages["finetune"]
    assert choices["load_in_4bit = true, gradient_checkpointing = true"] < four_bits


@pytest.mark.parametrize(("name", "card"), [("qwen2.5-math-1.5b-16gb", 16), ("qwen2.5-math-7b-24gb", 24)])
def test_the_recipes_for_smaller_cards_fit_them(name: str, card: int) -> None:
    """With a tenth of the card to spare."""
    config = RunConfig.checked(load_recipe(name))
    expert, amateur = (Shape.of(read_config(one, None), one) for one in (config.expert, config.amateur))
    stages = footprint(config, expert, amateur, 256, {"sample": 2, "finetune": 2}, "cuda").stages
    for stage, needed in stages.items():
        assert needed < 0.9 * card * 2**30, (stage, needed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("miniature", 77),
        ("smollm2", 110),
    ],
)
def test_a_plan_agrees_with_a_real_run(
    name: str, prompt: int, smollm2_gguf: Path, smollm2_amateur: Path, data_dir: Path, tmp_path: Path
) -> None:
    """Time within a factor of 2, and the peak of the resident memory within 25 %."""
    flags = ["--config", "miniature"]
    if name == "smollm2":
        flags = [
            "--expert", smollm2_gguf, "--amateur", smollm2_amateur, "--dataset", "gsm8k", "--data-dir", data_dir,
            "--sample.max-questions", 32, "--finetune.steps", 8, "--evaluate.max-items", 16,
            "--evaluate.max-answer-tokens", 128,
        ]  # fmt: skip
    command = [sys.executable, "-m", "lightreasoner.cli"]
    arguments = [*map(str, flags), "--out", str(tmp_path / "run"), "--json"]
    planned = json.loads(
        subprocess.run(
            [*command, "plan", *arguments, "--prompt-tokens", str(prompt)], capture_output=True, check=True
        ).stdout
    )
    with subprocess.Popen([*command, "run", *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as job:
        watched, peak = psutil.Process(job.pid), 0
        while job.poll() is None:
            with suppress(psutil.Error):
                peak = max(peak, watched.memory_info().rss)
            time.sleep(0.02)
        assert job.stdout is not None
        summary = json.loads(job.stdout.read())
    seconds = sum(summary["seconds"].values())
    print(f"{name}: planned {planned['seconds']} s, took {seconds:.1f} s; {planned['memory']['peak']} B, peak {peak} B")
    assert seconds / 2 < planned["seconds"] < seconds * 2, (planned["stages"], summary["seconds"])
    assert 0.75 * peak < planned["memory"]["peak"] < 1.25 * peak, (planned["memory"], peak)


def test_the_table_of_the_recipes_is_what_plan_says() -> None:
    page = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")
    table = "\n".join(memory_table())
    assert table in page, f"put this table into docs/recipes.md:\n{table}"


def test_free_memory_is_that_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 3000}))
    assert free_memory(torch.device("cpu")) == 3000
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (700, 900))
    assert free_memory(torch.device("cuda")) == 700
    monkeypatch.setattr(torch.mps, "is_available", lambda: True, raising=False)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 2000)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 500)
    assert free_memory(torch.device("mps")) == 1500


def test_a_plan_for_a_device_that_is_not_here_names_no_free_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the main memory counts as the card's, nor another card of this machine."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 3000}))
    with pytest.raises(ModelError, match="the free memory of cuda is unknown"):
        free_memory(torch.device("cuda"))
    for device in ("cuda", "cuda:1", "mps"):
        result = plan(config_for(tmp_path, device=device), flops=1e12)
        kind = device.partition(":")[0]
        assert (result["available"]["memory"], result["warnings"]) == (None, [])
        (line,) = [line for line in plan_lines(result) if line.startswith("memory")]
        assert line.endswith(f"), no {kind} here")
        with pytest.raises(ModelError, match=f"device {device} is not usable here"):
            plan(config_for(tmp_path, device=device))
    assert "of main memory" in "".join(plan_lines(plan(config_for(tmp_path, device="cpu"), flops=1e12)))


def test_the_doctor_says_which_precision_and_why_and_whether_the_pair_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(precision, "native_bfloat16", lambda: "AMX")
    monkeypatch.setattr(precision, "trial", lambda: precision.Trial(2.3, 1.0))

    def seen() -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        config = DoctorConfig(expert="miniature/expert", amateur="miniature/small")
        for finding in examine(config, no_trial=True)["findings"]:
            found.setdefault(finding["what"], []).append(f"{finding['verdict']} {finding['seen']}")
        return found

    general, of_pair = seen()["precision"]
    assert general == "ok bfloat16: the processor has AMX; a trial product ran 2.3 times as fast as float32"
    assert of_pair.startswith("ok float32: a hidden size of 160 is below 256")
    assert seen()["memory"][0].startswith("ok sampling needs about")
    monkeypatch.setattr("lightreasoner.doctor._free_memory", lambda config: 1000)
    (memory,) = seen()["memory"]
    assert memory.startswith("warning sampling needs about")
    assert "1 kB are free" in memory


def test_the_doctor_checks_that_two_models_share_a_vocabulary(
    tmp_path: Path, random_expert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    sound = examine(DoctorConfig(expert="miniature/expert", amateur="miniature/small"))
    assert sound["fit"]
    verdicts = {finding["what"]: finding["verdict"] for finding in sound["findings"]}
    checked = ("vocabulary", "sizes", "chat template", "stop tokens", "context", "trial")
    assert {verdicts[name] for name in checked} == {"ok"}
    assert re.search(r"\d+ % kept at β = 0.4 .*mean KL \d\.\d\d nats", sound["findings"][-1]["seen"])
    assert not examine(DoctorConfig(expert="miniature/expert", amateur="miniature/none"))["fit"]
    other = tmp_path / "other"
    other.mkdir()
    for path in random_expert.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    content = json.loads((other / "tokenizer.json").read_text())
    names = {id_: token for token, id_ in content["model"]["vocab"].items()}
    content["model"]["vocab"] |= {names[300]: 301, names[301]: 300}
    (other / "tokenizer.json").write_text(json.dumps(content))
    found = examine(DoctorConfig(expert="miniature/expert", amateur=str(other)))
    assert not any(finding["what"] == "trial" for finding in found["findings"])
    assert "2 of 640 ids differ" in found["findings"][-1]["seen"]


def test_the_doctor_names_a_broken_amateur_and_loads_no_model_that_does_not_fit(
    random_amateur: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pair = {"expert": "miniature/expert", "amateur": str(random_amateur)}
    trial, *warnings = [finding for finding in examine(DoctorConfig(**pair))["findings"] if finding["what"] == "trial"]
    assert {trial["verdict"], *(finding["verdict"] for finding in warnings)} == {"warning"}
    assert any("the amateur hardly predicts" in finding["seen"] for finding in warnings)
    assert not any(finding["what"] == "trial" for finding in examine(DoctorConfig(**pair), no_trial=True)["findings"])
    monkeypatch.setattr("lightreasoner.doctor._free_memory", lambda config: 1000)
    last = examine(DoctorConfig(**pair))["findings"][-1]
    assert (last["what"], last["verdict"]) == ("trial", "warning")
    assert last["seen"].startswith("not made: the weights need")


# --- Amateurs made of the expert ---


def test_weights_that_both_sides_use_are_planned_once(tmp_path: Path) -> None:
    named = plan(config_for(tmp_path), flops=1e12)
    layers = plan(config_for(tmp_path, amateur="self:layers=2"), flops=1e12)
    assert named["memory"]["weights_amateur"] > layers["memory"]["weights_amateur"] == 0
    assert layers["models"]["amateur_parameters"] < layers["models"]["expert_parameters"]
    assert "(the expert's first 2 layers)" in plan_lines(layers)[0]
    bits = plan(config_for(tmp_path, amateur="self:4bit"), flops=1e12)
    assert 0 < bits["memory"]["weights_amateur"] < bits["memory"]["weights_expert"]
    with pytest.raises(ConfigError, match="has 4 layers, so the amateur would be the expert itself"):
        plan(config_for(tmp_path, amateur="self:layers=4"), flops=1e12)


def test_the_doctor_checks_what_a_recipe_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of the run decide: its problems, rule, prompts, precision and batches."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "mine.jsonl").write_text('{"question": "What is 2 + 3?"}\n{"question": "What is 4 + 5?"}\n')

    def seen(**flags: Any) -> dict[str, tuple[str, str]]:
        found = examine(resolve(DoctorConfig, flags, "miniature"))["findings"]
        return {one["what"]: (one["verdict"], one["seen"]) for one in reversed(found)}  # the first of a name

    usual = seen()
    assert usual["trial"][1].startswith("8 problems of arithmetic, ")
    assert "kept at β = 0.4" in usual["trial"][1]
    mine = seen(dataset=str(tmp_path / "mine.jsonl"), dtype="bfloat16", cue="", sample={"divergence_beta": 1.5})
    assert mine["trial"][1].startswith(f"2 problems of {tmp_path / 'mine.jsonl'}, ")
    assert "kept at β = 1.5" in mine["trial"][1]
    assert mine["precision"][1].startswith("bfloat16: as set")
    prompts = [int(found["prompt"][1].split()[0]) for found in (mine, usual)]
    assert prompts[0] < prompts[1]  # without the instruction
    assert seen(dataset=str(tmp_path / "none.jsonl"))["trial"][0] == "wrong"
    template = tmp_path / "template.jinja"
    template.write_text("{% for one in messages %}[{{ one['role'] }}] {{ one['content'] }}{% endfor %} [assistant] ")
    assert seen(cue="", chat_template=template)["prompt"] != mine["prompt"]
    # A selection keeps its steps after sampling, so the trial has no share of kept steps.
    assert "kept" not in seen(select={"selection": "random", "keep_share": 0.2})["trial"][1]


def test_a_device_that_is_not_there_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = examine(DoctorConfig(device="cuda"))
    (device,) = (finding for finding in result["findings"] if finding["what"] == "device")
    assert device["verdict"] == "wrong"
    assert not result["fit"]


def test_the_doctor_examines_an_amateur_made_of_the_expert() -> None:
    result = examine(DoctorConfig(expert="miniature/expert", amateur="self", amateur_cue=""), no_trial=True)
    seen = {finding["what"]: finding["seen"] for finding in result["findings"]}
    assert result["fit"]
    assert "amateur: the expert itself, in the same weights" in seen["sizes"]
    result = examine(DoctorConfig(expert="miniature/expert", amateur="self"), no_trial=True)
    assert not result["fit"]
