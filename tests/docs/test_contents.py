"""What the pages state: the tutorial works, and numbers, names and answers are those of the code."""

import os
import re
import shlex
import stat
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

import lightreasoner
from lightreasoner.cli import app
from lightreasoner.config import RunConfig
from lightreasoner.errors import ConfigError
from lightreasoner.inference.footprint import footprint
from lightreasoner.models.shape import Shape, read_config
from lightreasoner.plan import size
from lightreasoner.recipes import load_recipe, recipe_names
from lightreasoner.runs.records import Answer, JudgedAnswer, ScoredChoices
from lightreasoner.samples.folder import FACTOR, Label, Rollout
from lightreasoner.samples.jsonl_lines import SampleLine

from .pages import DOCS, ROOT, blocks, commands, section, texts

TUTORIAL, FAQ, RECIPES = DOCS / "tutorial.md", DOCS / "faq.md", DOCS / "recipes.md"


def tutorial(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The commands of the tutorial in its order, in a folder with its files."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = {
        language: [block.text for block in blocks(TUTORIAL) if block.language == language]
        for language in ("python", "yaml")
    }
    exec(compile(found["python"][0], str(TUTORIAL), "exec"), {})
    (folder / "mine.yaml").write_text(found["yaml"][0], encoding="utf-8")
    yield from (list(command.words) for command in commands(TUTORIAL) if command.whole)


def give(words: list[str]) -> None:
    app(words, exit_on_error=False, print_error=False, result_action="return_value")


def test_the_tutorial_works_in_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command as it stands, but for less work in the long ones."""
    less = {
        "sample": ["--max-questions", "24"], "evaluate": ["--max-items", "12"], "plan": ["--flops", "1e9"],
        "advise": ["--prompts", "8", "--flops", "1e9"],
        "run": ["--dry-run"],
    }  # fmt: skip
    given = []
    for words in tutorial(tmp_path, monkeypatch):
        words = ["2" if before == "--steps" else word for before, word in zip(["", *words], words, strict=False)]
        if words[0] != "recipes":  # it would overwrite mine.yaml, which it refuses
            give([*words, *less.get(words[0], [])])
            given.append(words[0])
    assert given == [
        "doctor", "advise", "sample", "report", "finetune", "merge", "evaluate", "evaluate", "compare", "report",
        "plan", "run",
    ]  # fmt: skip
    assert "exam" in capsys.readouterr().out
    assert (tmp_path / "runs/mine/report.html").is_file()


@pytest.mark.slow
def test_the_tutorial_gains_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in tutorial(tmp_path, monkeypatch):
        if words[0] not in ("recipes", "plan", "run"):
            give(words)
        if words[0] == "compare":
            out = capsys.readouterr().out
            break
    row = re.search(r"\| exam +\| 200 +\| ([\d.]+) +\| ([\d.]+) +\| \+([\d.]+) \(\+([\d.]+)", out)
    assert row is not None, out
    before, after, gain, low = map(float, row.groups())
    said = re.search(r"\| exam +\| 200 \| ([\d.]+) +\| ([\d.]+) +\| \+([\d.]+)", texts(TUTORIAL))
    assert said is not None
    # Processors round differently, which changes single answers.
    assert [before, after, gain] == pytest.approx(list(map(float, said.groups())), abs=3)
    assert low > 0


def test_a_copied_recipe_overwrites_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text("expert: mine")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="exists"):
        give(["recipes", "copy", "qwen2.5-math-1.5b", "mine.yaml"])


def test_every_recipe_is_on_its_page() -> None:
    listed = [
        name
        for row in re.findall(r"^\| (`.*?) \|", texts(RECIPES), re.MULTILINE)
        for name in re.findall(r"`([^`]+)`", row)
    ]
    assert sorted(listed) == recipe_names()


def estimate(recipe: str) -> tuple[dict[str, str], dict[str, str]]:
    """Memory of the stages of a recipe on a GPU, and with other choices, as `lightr plan` states it."""
    config = RunConfig.checked(load_recipe(recipe))
    expert, amateur = (Shape.of(read_config(name, None), name) for name in (config.expert, config.amateur))
    found = footprint(config, expert, amateur, 128, {"sample": 2, "finetune": 2}, "cuda")
    return ({key: size(value) for key, value in kind.items()} for kind in (found.stages, found.choices))  # type: ignore[return-value]


def test_the_memory_of_small_cards_is_what_plan_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    page = " ".join(texts(RECIPES).split())
    for recipe in ("qwen2.5-math-1.5b-16gb", "qwen2.5-math-7b-24gb"):
        stages, choices = estimate(recipe)
        stated = re.search(rf"`{re.escape(recipe)}` (?:is estimated )?at (.*?)[;.] ", page)
        assert stated is not None
        assert re.findall(r"[\d.]+ GB", stated[1]) == [
            stages[stage] for stage in ("sample", "finetune", "merge", "evaluate")
        ]
    answer = section(FAQ, "7B on 24 GB")
    assert re.findall(r"([\d.]+)(?: GB)? for", answer) == [
        stages[stage].removesuffix(" GB") for stage in ("sample", "finetune", "merge", "evaluate")
    ]
    for choice in (
        "residency = sequential",
        "gradient_checkpointing = true",
        "load_in_4bit = true, gradient_checkpointing = true",
    ):
        assert f"| {choices[choice]} |" in answer


def columns(heading: str) -> set[str]:
    """Names in the first cells of the tables below a heading of the formats."""
    rows = re.findall(r"^\| (.*?) \|", section(DOCS / "formats.md", heading), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_the_formats_name_every_column() -> None:
    def of(kind: type) -> set[str]:
        return {field.name for field in fields(kind)}

    assert columns("rollouts-*.parquet") == of(Rollout)
    assert columns("steps-*.parquet") == of(Label) | {FACTOR}
    assert columns("Answers and verdicts") == of(Answer) | of(JudgedAnswer)
    choices = section(DOCS / "formats.md", "Answers and verdicts").rpartition("given choices")[2]
    assert of(ScoredChoices) <= set(re.findall(r"`(\w+)`", choices))
    lines = {field.alias or name for name, field in SampleLine.model_fields.items()}
    assert columns("JSON lines of samples") == lines | {"question_id"}


@pytest.mark.parametrize(
    ("question", "words"),
    {
        "Beta for my pair": ["lightr advise", "--select.keep-share", "report"],
        "7B on 24 GB": ["qwen2.5-math-7b-24gb", "--load-in-4bit", "--residency sequential", "plan"],
        "Another tokenizer": ["--vocabulary aligned", "--vocabulary shared", "doctor"],
        "Resume on Slurm": ["#SBATCH --signal=USR1@120", "138", "scontrol requeue"],
        "Reproduce Table 1": ["lightr study table1", "--recipe", "--evaluate.judge toolkit"],
        "My own benchmark": ["--benchmarks exam.jsonl", "--answer-kind", "compare"],
    }.items(),
)
def test_the_first_questions_are_answered_in_one_place(question: str, words: list[str]) -> None:
    answer = section(FAQ, question)
    assert [word for word in words if word not in answer] == []
    assert len(answer.split()) < 400
    asked = {str(command) for command in commands(FAQ) if command.whole and shlex.join(command.words) in answer}
    assert asked, "an answer has a command to give"


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (138, True), (143, False)])
def test_the_slurm_script_asks_for_the_job_again_after_the_signal_only(
    tmp_path: Path, code: int, requeued: bool
) -> None:
    (script,) = [block.text for block in blocks(FAQ) if "#SBATCH" in block.text]
    stand_ins = {"srun": '"$@"', "lightr": f'echo "$@" > given; exit {code}', "scontrol": 'echo "$@" > asked'}
    for program, text in stand_ins.items():
        file = tmp_path / program
        file.write_text(f"#!/bin/bash\n{text}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "4711"}
    ended = subprocess.run(["bash"], input=script, text=True, cwd=tmp_path, env=environment, check=False)
    assert ended.returncode == code
    assert (tmp_path / "given").read_text().startswith("run --config qwen2.5-math-1.5b ")
    assert (tmp_path / "asked").exists() == requeued
    if requeued:
        assert (tmp_path / "asked").read_text() == "requeue 4711\n"


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load(texts(ROOT / "CITATION.cff"))
    project = tomllib.loads(texts(ROOT / "pyproject.toml"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what the format requires
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    page = texts(DOCS / "citing.md")
    assert f"{{{project['version']}}}" in page
    (paper,) = citation["references"]
    assert paper["title"] in page.replace("{", "").replace("}", "")
    assert [author["family-names"] for author in paper["authors"]] == re.findall(r"(\w+), \w+(?: and|})", page)


def test_every_public_name_has_a_line_in_the_api_reference() -> None:
    lines = re.findall(r"^::: (\S+)", texts(DOCS / "api.md"), re.MULTILINE)
    assert {f"lightreasoner.{name}" for name in lightreasoner.__all__} <= set(lines)
    assert len(lines) == len(set(lines))


def test_the_readme_is_short_and_links_to_the_pages() -> None:
    readme = texts(ROOT / "README.md")
    assert len(readme.splitlines()) <= 100
    linked = set(re.findall(r"\]\((docs/[\w-]+\.md)", readme))
    pages = {f"docs/{page.name}" for page in DOCS.glob("*.md")} - {"docs/api.md"}  # has nothing to show on GitHub
    assert pages - linked == set()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["recipes", "ls"], "qwen2.5-math-7b-24gb"), (["recipes", "show", "any-domain"], "expert:"),
        (["benchmarks"], "gsm8k"),
    ],
)  # fmt: skip
def test_cheap_commands_of_the_pages_run(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    give(words)
    assert said in capsys.readouterr().out
