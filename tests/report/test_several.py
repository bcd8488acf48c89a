"""Several runs on one page, in a real browser, against `lightr compare` and the stages."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from lightreasoner.errors import ConfigError
from lightreasoner.evaluation.comparison import compare, compare_several
from lightreasoner.evaluation.statistics import holm
from lightreasoner.report import report, write, write_comparison
from lightreasoner.report.several import read_several
from lightreasoner.runs.records import ALARMS

from ..fake_runs import fake_answer, write_evaluation
from .pages import Page, appearance, collisions, fits, size

LONG = "a-run-with-a-very-long-name-" * 6


@pytest.fixture(scope="module")
def runs(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A run; the same with other settings and answers; one without evaluation; one of rounds with a long name."""
    folder = tmp_path_factory.mktemp("several")
    first, second, third = small_run, folder / "second", folder / "third"
    shutil.copytree(small_run, second)
    config = (second / "config.yaml").read_text()
    config = re.sub(r"seed: \d+", "seed: 7", config).replace("learning_rate: 0.004", "learning_rate: 0.001")
    (second / "config.yaml").write_text(config.replace("batch_size: 128", "batch_size: 4"))
    log = json.loads((second / "finetune" / "log.json").read_text())
    (second / "finetune" / "log.json").write_text(json.dumps([{**row, "loss": row["loss"] / 2} for row in log]))
    shutil.rmtree(second / "evaluate" / "merged")
    shutil.copytree(second / "evaluate" / "expert", second / "evaluate" / "merged")
    shutil.copytree(small_run / "sample", third / "sample")
    last = folder / LONG
    shutil.copytree(small_run / "sample", last / "sample")
    alarms = [dict.fromkeys(ALARMS, 0.1 * number) for number in range(3)]
    (last / "rounds.json").write_text(json.dumps({"kept": 1, "why": "round 1 is kept <b>", "rounds": alarms}))
    return [first, second, third, last]


@pytest.fixture(scope="module")
def made(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "comparison.html"
    facts = write_comparison(runs, file)
    assert facts == {"file": str(file), "bytes": file.stat().st_size, "runs": 4}
    return file


def cells(driver: webdriver.Chrome, selector: str) -> list[list[str]]:
    script = "return [...document.querySelectorAll(arguments[0] + ' tbody tr')].map(row => "
    script += "[...row.children].map(cell => cell.textContent.trim()))"
    found: list[list[str]] = driver.execute_script(script, selector)
    return found


def test_differences_are_those_of_compare(driver: webdriver.Chrome, runs: list[Path], made: Path) -> None:
    Page(driver, made, "")
    (row,) = compare(runs[0] / "evaluate" / "merged", runs[1] / "evaluate" / "merged")["benchmarks"]
    assert row["gained"] + row["lost"] > 0
    assert cells(driver, "#differences") == [
        [
            str(runs[1]), "Arithmetic", "chat", "40", f"{100 * row['before']:.1f}", f"{100 * row['after']:.1f}",
            f"{100 * row['gain']:+.1f} ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})",
            f"{row['gained']} / {row['lost']}", f"{row['p_value']:.2g}", f"{row['p_holm']:.2g}",
        ]
    ]  # fmt: skip
    shown = [element.text for element in driver.find_elements(By.CSS_SELECTOR, "#accuracy .num")]
    scores = [report(run).accuracies[0] for run in runs[:2]]
    assert scores[0].before is not None
    wanted = [scores[0].before, *(score.after for score in scores)]
    assert shown == [f"{100 * score.value:.1f} %" for score in wanted if score is not None]
    for run in runs[2:]:
        assert f"{run} has no evaluation after fine-tuning" in driver.find_element(By.CSS_SELECTOR, ".warn").text


def test_the_settings_that_differ_are_those_that_decide(driver: webdriver.Chrome, runs: list[Path], made: Path) -> None:
    Page(driver, made, "")
    rows = {row[0]: row[1:3] for row in cells(driver, "#settings")}
    assert rows["seed"] == ["42", "7"]
    assert rows["finetune.learning_rate"] == ["0.004", "0.001"]
    assert not {"out", "sample.batch_size", "device"} & set(rows)
    assert read_several(runs[:2]).settings == {"seed": (42, 7), "finetune.learning_rate": (0.004, 0.001)}


def test_the_settings_of_a_stage_have_the_names_of_a_recipe(runs: list[Path]) -> None:
    """The third run was made by `lightr sample` alone, and has no recipe."""
    differing = read_several([runs[0], runs[2]]).settings
    assert not {"expert", "amateur", "cue", "dataset", "seed", "sample.divergence_beta"} & set(differing)


def test_curves_are_overlaid_in_the_colours_of_the_runs(driver: webdriver.Chrome, runs: list[Path], made: Path) -> None:
    Page(driver, made, "")
    (loss,) = driver.find_elements(By.CSS_SELECTOR, "#training svg[aria-label^=Loss]")
    label = str(loss.get_attribute("aria-label"))
    logs = [json.loads((run / "finetune" / "log.json").read_text()) for run in runs[:2]]
    for run, log in zip(runs[:2], logs, strict=True):
        first, last = re.search(rf"{re.escape(str(run))}: from (\S+) to ([^\s;]+)", label).groups()  # type: ignore[union-attr]
        assert (float(first), float(last)) == pytest.approx((log[0]["loss"], log[-1]["loss"]), rel=6e-3)
    script = "return [...arguments[0].querySelectorAll('polyline')].map(e => getComputedStyle(e).stroke)"
    colours = driver.execute_script(script, loss)
    swatches = driver.execute_script(
        "return [...document.querySelectorAll('#training .swatch')].map(e => getComputedStyle(e).borderTopColor)"
    )
    assert colours == swatches[:2]
    assert len(set(swatches)) == 4
    assert len(driver.find_elements(By.CSS_SELECTOR, "#rounds svg")) == len(ALARMS)
    assert "round 1 is kept <b>" in driver.find_element(By.CSS_SELECTOR, "#rounds").text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_comparison_fits_a_screen_and_a_phone(driver: webdriver.Chrome, made: Path, scheme: str) -> None:
    appearance(driver, scheme)
    Page(driver, made, "")
    for width in (1280, 390):
        size(driver, width)
        assert collisions(driver) == []
        assert fits(driver, width)
    assert driver.get_log("browser") == []
    text = made.read_text()
    assert "http" not in text.replace("http-equiv", "")
    assert "default-src 'none'" in text


def test_markdown_and_json_have_the_same_content(runs: list[Path], tmp_path: Path) -> None:
    text = str(write(runs, as_markdown=True))
    values = json.loads(str(write(runs, as_json=True)))
    assert values["runs"][1]["accuracies"] == json.loads(json.dumps(report(runs[1]).as_dict()["accuracies"]))
    (row,) = values["comparisons"][str(runs[1])]["benchmarks"]
    assert f"{100 * row['gain']:+.1f} ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})" in text
    assert values["settings"]["seed"] == [42, 7, 42, 42]
    assert "| finetune.learning_rate" in text
    assert all(part in text for part in values["missing"])
    assert write(runs[:2], out=tmp_path / "page.html")["runs"] == 2  # type: ignore[index]


def test_a_run_named_twice_and_figures_of_several_are_refused(small_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is given twice"):
        write([small_run, Path(f"{small_run}/../{small_run.name}")])
    with pytest.raises(ConfigError, match="--figures draws the figures of one run, and 2 are given"):
        write([small_run, tmp_path], figures=tmp_path)


def evaluation(folder: Path, right: Any) -> Path:
    write_evaluation(folder, [fake_answer(n, f"Item {n}?", "x", [5, 2], is_right=right(n)) for n in range(60)])
    return folder


def test_p_values_are_corrected_over_all_comparisons(tmp_path: Path) -> None:
    folders = [
        evaluation(tmp_path / "a", lambda n: n < 20),
        evaluation(tmp_path / "b", lambda n: n < 30),
        evaluation(tmp_path / "c", lambda n: n < 18),
        tmp_path / "nothing",
        evaluation(tmp_path / "d", lambda n: n >= 20),
    ]
    found = compare_several(folders)
    singly = [compare(folders[0], other) for other in (folders[1], folders[2], folders[4])]
    rows = [result["benchmarks"][0] for result in (found[0], found[1], found[3])]
    plain = [result["benchmarks"][0]["p_value"] for result in singly]
    assert [row["p_value"] for row in rows] == plain
    assert [row["p_holm"] for row in rows] == holm(plain)
    assert rows[0]["p_holm"] > singly[0]["benchmarks"][0]["p_holm"]
    assert [row["gain"] for row in rows] == pytest.approx([10 / 60, -2 / 60, 20 / 60])
    assert found[2]["benchmarks"] == []
    assert "holds no evaluation" in found[2]["warnings"][0]
