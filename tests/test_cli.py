"""The command line in separate processes: help, exit codes, output streams, precedence of settings."""

import inspect
import json
import os
import platform
import resource
import shlex
import shutil
import subprocess
import sys
from functools import reduce
from importlib import metadata
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch

from lightreasoner import cli
from lightreasoner.config import RunConfig
from lightreasoner.errors import ConfigError
from lightreasoner.recipes import load_recipe, recipe_names, recipe_text

from .faults.harness import completed

COMMANDS = [
    "",
    "run",
    "sample",
    "finetune",
    "merge",
    "evaluate",
    "answers",
    "answers import",
    "answers export",
    "compare",
    "inspect",
    "report",
    "plan",
    "advise",
    "doctor",
    "grade",
    "benchmarks",
    "study",
    "samples",
    "samples select",
    "baseline",
    "rounds",
    "samples import",
    "samples export",
    "recipes",
    "recipes ls",
    "recipes show",
    "recipes copy",
]


def lightr(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lightreasoner.cli", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )


def data_of(*arguments: str, cwd: Path | None = None, cold: bool = False) -> Any:
    """The JSON that a successful command prints; stderr must be empty."""
    done = completed(*arguments, cwd=cwd, cold=cold)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return json.loads(done.stdout)


def settings_of(*arguments: str) -> Any:
    """The settings that a dry run prints, even if it then says that something is missing."""
    done = completed("run", *arguments, "--dry-run")
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


def usage_error(*arguments: str, cwd: Path | None = None) -> str:
    """The message of a refused command: one line on stderr, nothing on stdout, exit code 2."""
    done = completed(*arguments, cwd=cwd)
    assert (done.returncode, done.stdout) == (2, ""), (done.stdout, done.stderr)
    assert done.stderr.startswith("lightr: ")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("\n")
    return done.stderr


# --- Help ---


@pytest.mark.parametrize("command", ["", "run", *(pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS[2:])])
def test_help_comes_soon(command: str) -> None:
    # A second; on a slow processor, as many times what the import of the libraries takes there. Processor time does not
    # depend on other tests that run at the same time. `run` takes 4.4 units of 0.2 to 0.35 s; torch would take 8 more.
    libraries = [sys.executable, "-c", "import cyclopts.core, cyclopts.help, pydantic.main"]
    ratios = []
    for _ in range(3):
        start = _processor_time()
        subprocess.run(libraries, check=True, timeout=120)
        imported = _processor_time()
        done = lightr(*command.split(), "--help")
        helped = _processor_time()
        assert (done.returncode, done.stderr) == (0, "")
        assert f"Usage: {'lightr ' + command}".rstrip() in done.stdout
        ratios.append((helped - imported) / (imported - start))
        if helped - imported < 1 or ratios[-1] < 5.5:
            return
    pytest.fail(f"took {', '.join(f'{ratio:.1f}' for ratio in ratios)} times the import of cyclopts and pydantic")


def _processor_time() -> float:
    """Seconds that this process's ended children have computed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# Runs --help of every command, the recipe commands and a dry run in one process, and prints what was imported.
ALL_HELP = f"""
import contextlib, io, sys
from lightreasoner import cli
lines = [command.split() + ["--help"] for command in {COMMANDS!r}]
lines += [["recipes", "ls"], ["recipes", "show", "miniature"], ["sample"], ["--version"]]
lines += [["sample", "--config", "miniature", "--dry-run"]]
for line in lines:
    sys.argv = ["lightr", *line]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with contextlib.suppress(SystemExit):
            cli.main()
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""


def test_no_help_recipe_or_dry_run_imports_a_heavy_library() -> None:
    done = subprocess.run([sys.executable, "-c", ALL_HELP], capture_output=True, text=True, check=True, timeout=120)
    imported = set(done.stdout.split())
    assert {"lightreasoner", "pydantic", "yaml"} <= imported
    heavy = {"torch", "transformers", "peft", "accelerate", "datasets", "huggingface_hub", "pyarrow", "scipy", "numpy"}
    assert heavy & imported == set()


def test_importing_the_package_imports_no_heavy_library() -> None:
    script = "import sys, lightreasoner; print('torch' in sys.modules, 'pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "False False\n"


def test_help_tells_flags_meanings_and_defaults() -> None:
    text = " ".join(lightr("sample", "--help", COLUMNS="200").stdout.split())
    assert "--expert" in text
    assert "share of the top probability that a token needs" in text
    assert "(paper: 0.2)" in text
    assert "--config" in text


def test_without_a_command_the_help_is_shown() -> None:
    done = lightr()
    assert (done.returncode, done.stderr) == (0, "")
    assert all(command in done.stdout for command in ("run", "sample", "finetune", "merge", "evaluate", "recipes"))


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "lightreasoner", "recipes", "ls"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert [line.split()[0] for line in done.stdout.splitlines()] == recipe_names()


def test_the_version_tells_what_a_problem_may_depend_on() -> None:
    done = lightr("--version")
    found = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert (done.returncode, done.stderr, next(iter(found))) == (0, "", "lightreasoner")
    assert found.pop("python") == f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU"
    assert found.pop("torch") == f"{metadata.version('torch')} for {build}"
    assert found == {name: metadata.version(name) for name in found}
    assert {"transformers", "peft", "accelerate"} < found.keys()


def test_the_folder_of_the_lm_eval_tasks_needs_lm_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"lm-eval is not installed.* pip install '\.\[lm-eval\]' in the clone"):
        cli.app(["benchmarks", "--lm-eval"], exit_on_error=False, print_error=False)


def test_shell_completion(tmp_path: Path) -> None:
    """The scripts of three shells name the commands and flags; that of bash completes them in a real bash."""
    home = {"HOME": str(tmp_path)}
    for shell in ("bash", "zsh", "fish"):
        file = tmp_path / f"lightr.{shell}"
        done = lightr("--install-completion", "--shell", shell, "--output", str(file), **home)
        assert (done.returncode, done.stderr) == (0, "")
        script = file.read_text(encoding="utf-8")
        assert all(word in script for word in ("evaluate", "recipes", "divergence-beta", "math-verify"))
        if (program := shutil.which(shell)) is not None:
            subprocess.run([program, "-n", str(file)], check=True, timeout=60)
    assert str(tmp_path / "lightr.bash") in (tmp_path / ".bashrc").read_text()

    def completed_words(*words: str) -> list[str]:
        lines = [f"source {tmp_path}/lightr.bash", f"COMP_WORDS=({shlex.join(['lightr', *words])})"]
        lines += [f"COMP_CWORD={len(words)}", "_lightr", 'printf "%s\\n" "${COMPREPLY[@]}"']
        done = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, check=True, timeout=60)
        return sorted(done.stdout.split())

    assert completed_words("fine") == ["finetune"]
    assert completed_words("recipes", "") == ["copy", "ls", "show"]
    assert completed_words("evaluate", "--jud") == ["--judge"]
    assert completed_words("evaluate", "--judge", "") == ["math-verify", "toolkit"]


def test_both_names_of_the_command_are_installed() -> None:
    scripts = metadata.entry_points(group="console_scripts")
    assert {scripts[name].value for name in ("lightr", "lightreasoner")} == {"lightreasoner.cli:main"}


@pytest.mark.parametrize("arguments", ["sample --help", "recipes show qwen2.5-math-1.5b"])
def test_a_terminal_without_greek_letters_works(arguments: str) -> None:
    done = lightr(*arguments.split(), PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr[-300:]
    assert len(done.stdout) > 500


def test_help_shows_the_commands_in_their_groups_and_order() -> None:
    groups: dict[str, list[str]] = {}
    for line in lightr("--help", COLUMNS="200").stdout.splitlines():
        if line.startswith("╭─ "):
            commands = groups.setdefault(line.strip("╭─╮ "), [])
        elif line.startswith("│ ") and line[2] != " ":
            commands.append(line.split()[1])
    assert groups == {
        "Train and evaluate": ["run", "sample", "finetune", "merge", "evaluate"],
        "Check and plan": ["doctor", "plan", "advise"],
        "Look at results": ["report", "inspect", "compare"],
        "Baselines and studies": ["baseline", "rounds", "study"],
        "Data": ["samples", "answers", "recipes", "benchmarks", "grade", "push"],
        "Options": ["--help", "--install-completion", "--version"],
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_the_function_that_runs_a_command_takes_its_arguments(command: str) -> None:
    """The commands name functions in strings, which mypy does not check, and read their signatures from the source."""
    execute = reduce(lambda found, name: found[name], command.split(), cli.app).default_command
    if execute is None:
        return  # a group of commands
    declared = inspect.getclosurevars(execute).nonlocals
    if isinstance(declared["target"], str):
        function = resolve_name(f"lightreasoner.{declared['target']}")
        assert inspect.signature(function).parameters.keys() == declared["parameters"].keys()
        inspect.signature(function).bind(**dict.fromkeys(declared["parameters"]))
    if declared["lines"] is not None:
        assert callable(resolve_name(f"lightreasoner.{declared['lines']}"))


# --- Wrong usage ---


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("nonsense", ['Unknown command "nonsense"', "run, sample, finetune, merge, evaluate"]),
        ("sample --max-question 5", ["--max-question", "Did you mean --max-questions?"]),
        ("run --config miniature --sample.max-question 5", ["Did you mean --sample.max-questions?"]),
        ("run --config miniature --benchmarks gsm8k", ["--benchmarks", "Did you mean --evaluate.benchmarks?"]),
        ("sample --beta 0.3", ["--beta", "Did you mean --divergence-beta?"]),
        (
            "run --alpha 0.3",
            ["Did you mean --sample.plausibility-alpha or --select.plausibility-alpha or --finetune.lora-alpha?"],
        ),
        ("finetune --lr 0.1", ["Did you mean --learning-rate"]),
        ("finetune --max-steps 5", ["Did you mean --steps?"]),
        ("run --study.lengths 64", ["Unknown option: --study.lengths"]),
        (
            "run --config miniature --evaluate.benchmarks gms8k",
            ["evaluate.benchmarks: no benchmark and no file", "'gms8k': did you mean gsm8k?"],
        ),
        ("run --config miniature stray", ["stray"]),
        ("finetune --no-padding-free", ["--no-padding-free"]),
        ("run --config nope", ["no recipe 'nope'", "miniature"]),
        ("run --config nope.yaml", ["no recipe file nope.yaml", "lightr recipes ls"]),
        ("recipes show nope", ["no recipe 'nope'", "miniature"]),
        ("recipes show", ["lightr recipes show needs NAME; lightr recipes show --help shows what it takes"]),
        ("recipes copy miniature", ["lightr recipes copy needs FILE"]),
        ("compare a", ["lightr compare needs AFTER"]),
        ("samples import", ["lightr samples import needs FILE"]),
        ("samples import a.jsonl out", ["--expert"]),
        ("samples export run", ["lightr samples export needs FILE"]),
        ("sample", ["expert is required: give --expert", "amateur is", "dataset is", "out is"]),
        ("finetune", ["model is required: give --model", "data is", "out is"]),
        ("merge", ["model is", "adapter is required: give --adapter", "out is"]),
        ("evaluate", ["model is", "out is required: give --out"]),
        ("run --expert one", ["amateur is required", "dataset is required"]),
        ("sample --expert", ["--expert", "requires an argument"]),
        ("sample --seed 1 --seed 2", ["--seed"]),
        ("sample --max-questions abc", ["max_questions = 'abc'", "integer"]),
        ("run --config miniature --sample.max-questions abc", ["sample.max_questions = 'abc'", "integer"]),
        ("run --config miniature --sample.max-questions 0", ["sample.max_questions = ", "greater than or equal to 1"]),
        ("run --config miniature --sample.plausibility-alpha 2", ["sample.plausibility_alpha = '2'", "equal to 1"]),
        ("run --config miniature --finetune.steps 1.5", ["finetune.steps"]),
        ("run --config miniature --finetune.learning-rate 0", ["finetune.learning_rate", "greater than 0"]),
        ("run --config miniature --dtype fp8", ["dtype = 'fp8'", "bfloat16"]),
        ("run --config miniature --seed x", ["seed = 'x'"]),
    ],
)
def test_wrong_usage_is_one_line_that_says_what_is_wrong_and_exit_code_2(arguments: str, words: list[str]) -> None:
    message = usage_error(*arguments.split())
    assert all(word in message for word in words), message


def test_a_line_break_in_an_argument_does_not_break_the_message() -> None:
    assert 'Unknown command "non sense"' in usage_error("non\nsense")


def test_an_unknown_key_in_a_recipe_file_is_wrong_usage_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("expert: a\namateur: b\ndataset: c\nsample: {divergence_bta: 1}\n")
    message = usage_error("run", "--config", "mine.yaml", "--dry-run", cwd=tmp_path)
    assert "unknown key sample.divergence_bta: did you mean divergence_beta?" in message


def test_a_refused_command_writes_nothing(tmp_path: Path) -> None:
    usage_error("run", "--config", "miniature", "--finetune.steps", "0", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- Broken output streams ---


def test_a_closed_pipe_gives_exit_code_1_and_no_traceback() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "lightreasoner.cli", "recipes", "show", "miniature"],
            stdout=write_end,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    finally:
        os.close(write_end)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_at_stdout_gives_one_line_and_no_traceback() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "lightreasoner.cli", "recipes", "show", "miniature"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("lightr: ")
    assert done.stderr.count("\n") == 1


# --- Dry runs: defaults < recipe < flags ---

RECIPE = """
expert: the/expert
amateur: the/amateur
dataset: gsm8k
seed: 1
dtype: float32
trust_remote_code: true
out: runs/recipe
sample: {max_questions: 10, batch_size: 3, divergence_beta: 0.7}
finetune: {steps: 7, lora_targets: [k_proj]}
merge: {merge_dtype: float16}
evaluate: {benchmarks: [svamp, gsm8k], max_items: 9}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE)
    return str(file)


def test_a_dry_run_prints_the_settings_on_stdout_and_writes_nothing(tmp_path: Path) -> None:
    settings = data_of("run", "--config", "miniature", "--dry-run", cwd=tmp_path, cold=True)
    assert settings == RunConfig.checked(load_recipe("miniature")).model_dump(mode="json")
    assert list(tmp_path.iterdir()) == []


def test_run_without_arguments_uses_the_miniature_and_says_so_on_stderr() -> None:
    done = completed("run", "--dry-run")
    assert done.returncode == 0
    assert json.loads(done.stdout)["expert"] == "miniature/expert"
    assert done.stderr == "no --config and no --expert: using the bundled recipe miniature\n"


def test_run_with_given_models_uses_no_recipe() -> None:
    settings = settings_of("--expert", "a", "--amateur", "b", "--dataset", "c.jsonl")
    assert settings == RunConfig(expert="a", amateur="b", dataset="c.jsonl").model_dump(mode="json")


def test_flags_override_the_recipe_which_overrides_defaults(recipe: str) -> None:
    settings = settings_of("--config", recipe, "--sample.max-questions", "20", "--seed", "2")
    assert (settings["seed"], settings["sample"]["max_questions"]) == (2, 20)  # flags
    assert (settings["dtype"], settings["sample"]["batch_size"]) == ("float32", 3)  # recipe
    assert (settings["device"], settings["sample"]["max_new_tokens"]) == ("auto", 128)  # defaults
    assert settings["evaluate"]["benchmarks"] == ["svamp", "gsm8k"]


def test_a_flag_with_the_default_value_overrides_the_recipe(recipe: str) -> None:
    flags = ["--seed", "42", "--sample.divergence-beta", "0.4", "--dtype", "auto", "--trust-remote-code=false"]
    settings = settings_of("--config", recipe, *flags)
    assert (settings["seed"], settings["sample"]["divergence_beta"]) == (42, 0.4)
    assert (settings["dtype"], settings["trust_remote_code"]) == ("auto", False)


def test_none_as_a_flag_overrides_a_number_in_the_recipe(recipe: str) -> None:
    flags = ["--sample.max-questions", "none", "--sample.divergence-beta", "none", "--evaluate.max-items", "none"]
    settings = settings_of("--config", recipe, *flags)
    assert settings["sample"]["max_questions"] is None
    assert settings["sample"]["divergence_beta"] is None
    assert settings["evaluate"]["max_items"] is None


def test_a_list_flag_replaces_the_list_of_the_recipe(recipe: str) -> None:
    flags = ["--evaluate.benchmarks", "arithmetic", "gsm8k", "--finetune.lora-targets", "q_proj"]
    settings = settings_of("--config", recipe, *flags)
    assert settings["evaluate"]["benchmarks"] == ["arithmetic", "gsm8k"]
    assert settings["finetune"]["lora_targets"] == ["q_proj"]


@pytest.mark.parametrize(
    ("command", "of_recipe", "flag", "of_flag", "of_default"),
    [
        (
            "sample",
            {"expert": "the/expert", "max_questions": 10, "seed": 1, "out": "runs/recipe"},
            ["--batch-size", "5"],
            {"batch_size": 5},
            {"max_new_tokens": 128, "plausibility_alpha": 0.2},
        ),
        (
            "finetune",
            {"model": "the/expert", "data": "runs/recipe", "steps": 7, "seed": 1},
            ["--lora-targets", "q_proj", "o_proj"],
            {"lora_targets": ["q_proj", "o_proj"]},
            {"lora_rank": 8, "learning_rate": 5e-5},
        ),
        (
            "merge",
            {"model": "the/expert", "adapter": "runs/recipe", "merge_dtype": "float16"},
            ["--out", "elsewhere"],
            {"out": "elsewhere"},
            {"device": "auto"},
        ),
        (
            "evaluate",
            {"model": "the/expert", "benchmarks": ["svamp", "gsm8k"], "out": "runs/recipe/evaluate/expert"},
            ["--max-items", "4"],
            {"max_items": 4},
            {"max_answer_tokens": 2048},
        ),
    ],
)
def test_a_stage_reads_its_section_of_a_recipe_and_flags_override_it(
    command: str,
    of_recipe: dict[str, Any],
    flag: list[str],
    of_flag: dict[str, Any],
    of_default: dict[str, Any],
    recipe: str,
) -> None:
    settings = data_of(command, "--config", recipe, *flag, "--dry-run")
    assert settings.items() >= of_recipe.items()
    assert settings.items() >= of_flag.items()
    assert settings.items() >= of_default.items()


def test_flags_complete_a_recipe_for_a_stage(tmp_path: Path) -> None:
    (tmp_path / "part.yaml").write_text("expert: a\nsample: {batch_size: 3}\n")
    flags = ["--amateur", "b", "--dataset", "c.jsonl", "--out", "o"]
    settings = data_of("sample", "--config", "part.yaml", *flags, "--dry-run", cwd=tmp_path)
    assert (settings["expert"], settings["amateur"], settings["batch_size"]) == ("a", "b", 3)


def test_the_commands_of_the_authors_readme_have_equivalents() -> None:
    sample = "sample --expert Qwen/Qwen2.5-Math-1.5B --amateur Qwen/Qwen2.5-0.5B --dataset gsm8k --out r --dry-run"
    assert data_of(*sample.split())["max_questions"] == 1000
    finetune = "finetune --model Qwen/Qwen2.5-Math-1.5B --data r --steps 1000 --out r --dry-run"
    assert data_of(*finetune.split())["labels_per_step"] == 16
    evaluate = "evaluate --model r/merged --benchmarks gsm8k svamp --out e --dry-run"
    assert data_of(*evaluate.split())["benchmarks"] == ["gsm8k", "svamp"]


# --- Recipes ---


def test_recipes_are_listed_one_a_line_with_what_each_is_for() -> None:
    done = lightr("recipes", "ls")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    for line in lines:
        assert line.endswith(".")  # the recipe's first comment line is a whole sentence
        assert "CPU" in line or "GPU" in line
        assert len(line) <= 140


def test_a_recipe_is_shown_as_it_is() -> None:
    done = lightr("recipes", "show", "miniature")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", recipe_text("miniature"))


def test_a_copied_recipe_runs_like_the_bundled_one(tmp_path: Path) -> None:
    done = lightr("recipes", "copy", "miniature", "mine.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    copied = data_of("run", "--config", "mine.yaml", "--dry-run", cwd=tmp_path)
    assert copied == data_of("run", "--config", "miniature", "--dry-run")


def test_copying_a_recipe_never_overwrites_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("precious")
    said = usage_error("recipes", "copy", "miniature", "mine.yaml", cwd=tmp_path)
    assert "mine.yaml exists and is not overwritten" in said
    assert (tmp_path / "mine.yaml").read_text() == "precious"


def test_copying_an_unknown_recipe_makes_no_file(tmp_path: Path) -> None:
    usage_error("recipes", "copy", "nope", "mine.yaml", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_copying_a_recipe_into_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "absent" in usage_error("recipes", "copy", "miniature", "absent/mine.yaml", cwd=tmp_path)


# --- Evaluations ---


def test_benchmarks_are_listed_for_people_and_machines() -> None:
    rows = data_of("benchmarks", "--json")
    assert (rows["gsm8k"]["items"], rows["gsm8k"]["verified"]) == (1319, False)
    listed = lightr("benchmarks")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert all(f"| {name} " in listed.stdout for name in rows)


def test_evaluate_and_compare_print_tables(tmp_path: Path) -> None:
    common = ["--benchmarks", "arithmetic", "--max-items", "16", "--max-answer-tokens", "48", "--prompts", "both"]
    for name in ("base", "expert"):
        done = completed("evaluate", "--model", f"miniature/{name}", *common, "--out", name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("| prompt | Arithmetic ")
        assert "chat/arithmetic: n = 16, acc, " in done.stdout
    found = completed("compare", "base", "expert", cwd=tmp_path)
    assert (found.returncode, found.stderr) == (0, "")
    assert [line.split("|")[1].strip() for line in found.stdout.splitlines()[2:4]] == ["chat", "plain"]
    assert [row["prompt"] for row in data_of("compare", "base", "expert", "--json", cwd=tmp_path)["benchmarks"]] == [
        "chat",
        "plain",
    ]
    lost = completed("compare", "base", "absent", cwd=tmp_path)
    assert (lost.returncode, lost.stdout) == (1, "")
    assert "absent holds no evaluation" in lost.stderr


@pytest.mark.parametrize("lines", ["report.tables:sample_lines", "report.tables:evaluation_lines", None])
def test_a_process_that_joined_another_prints_no_result(lines: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    cli._print({}, False, lines)
    assert capsys.readouterr().out == ""
    cli._print({}, True, lines)
    assert json.loads(capsys.readouterr().out) == {}
