"""`lightr inspect` and `lightr report` from the command line."""

import io
import json
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from lightreasoner.config import InspectConfig, SampleConfig
from lightreasoner.errors import ConfigError, DataError
from lightreasoner.inspection import inspect
from lightreasoner.report.charts import kl_class
from lightreasoner.report.tokens import find_texts
from lightreasoner.runs.stage import read_stage
from lightreasoner.samples.folder import Rollout
from lightreasoner.samples.sampling import sample

from .faults.harness import completed as lightr
from .kept import kept_steps

QUESTION = "Ben has 33 marbles. Then 25 marbles are found. Ben loses 19 of them. How many marbles are left?"
PAIR = {"expert": "miniature/expert", "amateur": "miniature/base", "dtype": "float32", "max_new_tokens": 48}


def printed(question: str, **settings: object) -> tuple[str, dict[str, object]]:
    """Output in a terminal of 200 columns."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="truecolor", width=200, highlight=False)
    facts = inspect(InspectConfig.checked({**PAIR, **settings, "question": question}), console)
    return out.getvalue(), facts


def test_nothing_from_a_stop_text_on_is_shown() -> None:
    whole, facts = printed(QUESTION)
    shown, fewer = printed(QUESTION, stop_strings=["\\boxed"])
    assert "boxed" in whole
    assert "boxed" not in shown
    assert 0 < fewer["steps"] < facts["steps"]  # type: ignore[operator]
    with pytest.raises(DataError, match="the response is empty"):
        printed(QUESTION, stop_strings=[*map(chr, range(32, 127)), "\n"])


def test_a_question_beyond_the_context_is_refused() -> None:
    with pytest.raises(DataError, match="the question is longer than the context of 512 tokens"):
        printed("How many? " * 300)


def test_the_heat_map_shows_the_values_that_sampling_writes(tmp_path: Path) -> None:
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps({"question": QUESTION}))
    sample(SampleConfig.checked({**PAIR, "dataset": str(file), "out": tmp_path / "run"}))
    _, stage = read_stage(tmp_path / "run" / "sample")
    (rollout,) = (row for table in stage.tables("rollouts") for row in Rollout.rows(table))
    steps = kept_steps(tmp_path / "run")
    shown, facts = printed(QUESTION)
    assert facts["steps"] == len(rollout.response_ids)
    assert facts["kept_steps"] == len(steps)
    assert facts["mean_kl"] == pytest.approx(sum(rollout.kl) / len(rollout.kl), abs=1e-4)
    texts = find_texts([("miniature/expert", None)])
    for step in steps:
        lead = f"{step.position:>4}  KL {step.kl:6.3f}"
        line = next(line for line in shown.splitlines() if line.startswith(lead))
        best = step.token_ids[step.weights.index(max(step.weights))]
        assert f"{texts.token(best).text!r} {100 * max(step.weights):.1f} %" in line
    highest = max(range(len(steps)), key=lambda place: steps[place].kl)
    token = texts.token(rollout.response_ids[steps[highest].position]).text
    red, green, blue = {7: (34, 94, 168), 8: (12, 44, 132)}[kl_class(steps[highest].kl)]
    assert f"48;2;{red};{green};{blue}m{token}" in shown


def test_no_escape_of_a_question_reaches_the_terminal() -> None:
    shown, _ = printed("How\x1b[2J many\x07 \u202e[bold]hens[/bold]\x9b31m?", max_new_tokens=4)
    body = shown.replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert "⟨U+001B⟩[2J" in body
    assert "⟨U+0007⟩" in body
    assert "⟨U+202E⟩[bold]hens[/bold]⟨U+009B⟩31m" in body
    assert "\x1b[2J" not in shown
    assert "\x9b" not in shown


def test_inspect_takes_a_recipe_and_prints_counts(tmp_path: Path) -> None:
    found = lightr("inspect", QUESTION, "--config", "miniature", "--json")
    assert found.returncode == 0, found.stderr
    facts = json.loads(found.stdout)
    assert facts["steps"] > facts["kept_steps"] > 0
    nothing = lightr("inspect", QUESTION)
    assert nothing.returncode == 2
    assert "expert is required" in nothing.stderr


def test_report_writes_each_format_and_a_command_that_repeats_the_run(tmp_path: Path) -> None:
    run, page = tmp_path / "run", tmp_path / "page.html"
    sample(SampleConfig.checked({**PAIR, "dataset": "arithmetic", "max_questions": 4, "out": run}))
    found = lightr("report", run, "--out", page)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[0] == f"file: {page}"
    assert page.read_text().startswith("<!doctype html>")
    values = json.loads(lightr("report", run, "--json").stdout)
    assert values["labels"]["rollouts"] == 4
    again = lightr(*shlex.split(values["commands"][0])[1:])
    assert again.returncode == 0, again.stderr
    folders = (run, Path(f"{run}-again"))
    manifests = [json.loads((folder / "sample" / "manifest.json").read_text()) for folder in folders]
    assert manifests[0]["fingerprint"] == manifests[1]["fingerprint"]
    both = lightr("report", run, "--markdown", "--json")
    assert both.returncode == 2
    assert "different things to write" in both.stderr


def test_inspect_refuses_wrong_settings() -> None:
    with pytest.raises(ConfigError, match="top_tokens"):
        InspectConfig.checked({**PAIR, "question": "?", "top_tokens": 0})
