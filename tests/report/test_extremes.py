"""Charts and tables in a real browser, with normal and extreme data, on a screen and on a phone."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from transformers import PreTrainedTokenizerFast

from lightreasoner.report import report, write_page
from lightreasoner.samples.folder import Label, Rollout

from ..fake_runs import fake_answer, fake_rollout, write_evaluation, write_samples
from .helpers import copy_of
from .pages import Page, appearance, collisions, fits, size

Row = tuple[Rollout, list[Label]]
LONG = "an/" + "expert-with-a-very-long-name-" * 8
RTL = "כמה הם שלוש ועוד ארבע? ثلاثة زائد أربعة <b>bold</b> <script>document.title='hacked'</script>"


def with_kl(row: Row, value: Callable[[int], float]) -> Row:
    rollout, labels = row
    return replace(rollout, kl=[value(step) for step in range(len(rollout.kl))]), labels


EXTREMES: dict[str, dict[str, Any]] = {
    "usual": {},
    "one tall bar": {"kl": lambda step: 0.05},
    "the last bar is tall": {"kl": lambda step: 6.0 if step else 0.1},
    "all equal": {"kl": lambda step: 0.3},
    "all zero": {"kl": lambda step: 0.0},
    "no step kept": {"kept": False},
    "one step": {"length": 1},
    "long rollouts": {"length": 2100, "rollouts": 2},
    "beta near the edge": {"beta": 1.97},
    "beta in the overflow": {"beta": 3.04},
    "beta beyond all": {"beta": 31.4159},
    "long names": {"expert": LONG, "amateur": "self:layers=12", "dataset": "d" * 120, "amateur_hint": "h" * 90},
    "right to left": {"question": RTL},
}


@pytest.mark.parametrize("kind", EXTREMES)
def test_no_text_of_a_chart_overlaps_and_nothing_scrolls_sideways(
    kind: str, driver: webdriver.Chrome, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    case = dict(EXTREMES[kind])
    length, count, question = case.pop("length", 24), case.pop("rollouts", 12), case.pop("question", "How many?")
    kl, kept = case.pop("kl", None), case.pop("kept", True)
    rng = np.random.default_rng(0)
    words = tokenizer(f" {question}", add_special_tokens=False)["input_ids"]
    ids = (words * length)[:length]
    rows = [fake_rollout(number, f"{question} {number}", ids, len(tokenizer), rng) for number in range(count)]
    rows = [with_kl(row, kl) if kl else row for row in rows]
    write_samples(tmp_path, [(rollout, labels if kept else []) for rollout, labels in rows], tokenizer, **case)
    write_page(tmp_path)
    page = Page(driver, tmp_path / "report.html")
    for width in (1280, 390):
        size(driver, width)
        for scheme in ("light", "dark"):
            appearance(driver, scheme)
            assert collisions(driver) == []
            assert fits(driver, width)
    assert driver.get_log("browser") == []
    assert driver.execute_script("return document.title") == f"{tmp_path} · lightreasoner"
    labels = report(tmp_path).labels
    assert labels is not None
    titles = driver.execute_script("return [...document.querySelectorAll('svg.wide title')].map(e => e.textContent)")
    assert [f"{100 * share:.2f} %" for share in labels.histogram[:-1]] == [text.split(": ")[1] for text in titles]
    assert page.driver.execute_script("return new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size") == (
        len(driver.find_elements(By.CSS_SELECTOR, "[id]"))
    )


def test_the_charts_of_a_run_show_the_figures_of_its_stages(
    driver: webdriver.Chrome, small_run: Path, tmp_path: Path
) -> None:
    page = Page(driver, small_run / "report.html")
    found = report(small_run)
    log = json.loads((small_run / "finetune" / "log.json").read_text())
    curves = [element.get_attribute("aria-label") for element in driver.find_elements(By.CSS_SELECTOR, "#training svg")]
    names = ("Loss", "KL to the labels", "Gradient norm", "Learning rate")
    for name, key, text in zip(names, ("loss", "kl_to_target", "grad_norm", "learning_rate"), curves, strict=True):
        assert text is not None
        assert text.startswith(name)
        first, last = (float(part) for part in text.rpartition("from ")[2].split(" to "))
        assert (first, last) == pytest.approx((log[0][key], log[-1][key]), rel=6e-3)
    cells = [element.text for element in driver.find_elements(By.CSS_SELECTOR, "#lengths tbody tr")]
    results = [
        json.loads((small_run / f"evaluate/{side}/chat/arithmetic/math-verify/result.json").read_text())["result"]
        for side in ("expert", "merged")
    ]
    for cell, result in zip(cells[1:], results, strict=True):
        assert f" {result['total']} {result['mean_tokens']:.1f} " in cell
        assert f"{100 * result['cut_off']:.1f} %" in cell
    assert [row.total for row in found.lengths] == [40, 40, 40]
    for width in (1280, 390):
        size(driver, width)
        assert collisions(driver) == []
        assert fits(driver, width)
    assert page.driver.get_log("browser") == []


def test_a_training_of_one_entry_shows_its_figures(driver: webdriver.Chrome, small_run: Path, tmp_path: Path) -> None:
    copy_of(small_run, tmp_path, "finetune", "sample")
    (tmp_path / "finetune" / "log.json").write_text(
        json.dumps([{"step": 1, "loss": 0.25, "kl_to_target": None, "grad_norm": 1e9, "learning_rate": 5e-5}])
    )
    write_page(tmp_path)
    page = Page(driver, tmp_path / "report.html")
    assert "0.25" in page.text("#training .numbers")
    assert "5e-5" in page.text("#training .numbers")
    assert driver.find_elements(By.CSS_SELECTOR, "#training svg") == []


# --- Tables on a phone ---


def test_a_wide_table_says_that_it_scrolls_and_scrolls_by_keyboard(driver: webdriver.Chrome, small_run: Path) -> None:
    Page(driver, small_run / "report.html")
    size(driver, 390)
    script = """return [...document.querySelectorAll('.table')].filter(e => e.offsetParent).map(e => {
      const hint = e.previousElementSibling;
      return [e.scrollWidth > e.clientWidth + 1, !!hint && hint.matches('.scrollhint') && hint.offsetHeight > 0,
              e.tabIndex]; })"""
    driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    states = driver.execute_script(script)
    assert any(wide for wide, *_ in states)
    assert all((wide, wide, 0 if wide else -1) == tuple(state) for state in states for wide in state[:1])
    box = driver.find_element(By.CSS_SELECTOR, "#accuracy .table")
    box.send_keys(*[Keys.ARROW_RIGHT] * 3)
    assert driver.switch_to.active_element == box
    driver.execute_async_script("setTimeout(arguments[0], 300)")
    assert driver.execute_script("return arguments[0].scrollLeft", box) > 0
    # The names of the rows stay in sight.
    assert driver.execute_script("return arguments[0].querySelector('tbody th').getBoundingClientRect().left", box) >= 0
    size(driver, 1280)
    driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    assert not any(shown for _, shown, _ in driver.execute_script(script))


# --- Cases ---


@pytest.fixture(scope="module", params=[1000, pytest.param(10_000, marks=pytest.mark.slow)])
def number_of_cases(request: pytest.FixtureRequest) -> int:
    count: int = request.param
    return count


@pytest.fixture(scope="module")
def cases_run(
    number_of_cases: int, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Items whose verdict changed: every third became wrong, every tenth was cut off before."""
    folder = tmp_path_factory.mktemp("cases")
    rows: dict[str, list[Any]] = {"expert": [], "merged": []}
    ids = {side: tokenizer(f"So <i>{RTL}</i> {side}", add_special_tokens=False)["input_ids"] for side in rows}
    for number in range(number_of_cases):
        right = number % 3 > 0
        question = f"{RTL} item {number}"
        for side, is_right in (("expert", not right), ("merged", right)):
            finish = "length" if side == "expert" and number % 10 == 0 else "stop"
            rows[side].append(fake_answer(number, question, RTL, ids[side], is_right=is_right, finish=finish))
    for side, found in rows.items():
        write_evaluation(folder / "evaluate" / side, found)
    tokenizer.save_pretrained(folder / "merged")
    write_page(folder)
    return folder


def test_thousands_of_cases_are_filtered_and_paged(
    driver: webdriver.Chrome, cases_run: Path, number_of_cases: int
) -> None:
    page = Page(driver, cases_run / "report.html", "#case-list")

    def shown() -> list[int]:
        script = "return [...document.querySelectorAll('.case')].map(e => +e.dataset.case)"
        found: list[int] = driver.execute_script(script)
        return found

    whole, lost = f"{number_of_cases:,} cases", len(range(0, number_of_cases, 3))
    assert page.text("#case-count") == whole
    assert page.text("#case-page") == f"page 1 of {number_of_cases // 5:,}"
    assert f"{number_of_cases - lost:,} became right, {lost:,} became wrong" in page.text("#cases .lede")
    page.set("case-verdict", "0")
    page.until(lambda: page.text("#case-count") == f"{lost:,} cases")
    page.until(lambda: shown() == [0, 3, 6, 9, 12])
    page.one("#case-on").click()
    page.until(lambda: shown() == [15, 18, 21, 24, 27])
    page.set("case-limit", "before")
    page.until(lambda: shown() == [0, 30, 60, 90, 120])
    assert page.text("#case-count") == f"{len(range(0, number_of_cases, 30)):,} cases"
    assert "cut off at the length limit" in page.text(".case .two > div")
    page.set("case-limit", "after")
    page.until(lambda: "Nothing matches" in page.text("#case-list"))
    page.one("#case-filters button[type=reset]").click()
    page.until(lambda: page.text("#case-count") == whole)
    page.set("case-search", "ITEM 77")
    found = [number for number in range(number_of_cases) if str(number).startswith("77")]
    page.until(lambda: shown() == found[:5])
    assert page.text("#case-count") == f"{len(found)} cases"
    # By keyboard to the last page, where the focus moves from the button that is used up to the other one.
    page.one("#case-on").send_keys(Keys.ENTER)
    for start in range(5, len(found), 5):
        page.until(lambda at=start: shown() == found[at : at + 5])
        if start + 5 < len(found):
            page.driver.switch_to.active_element.send_keys(Keys.ENTER)
    assert driver.switch_to.active_element == page.one("#case-back")
    assert driver.get_log("browser") == []


def test_texts_of_cases_are_shown_literally_in_their_own_direction(driver: webdriver.Chrome, cases_run: Path) -> None:
    page = Page(driver, cases_run / "report.html", "#case-list")
    assert page.text(".case .question") == f"{RTL} item 0"
    assert "<i>" in page.text(".case .answer")
    assert page.text(".case mark").strip("␣") in "expert merged"
    assert driver.title != "hacked"
    assert driver.execute_script("return document.querySelectorAll('.case script, .case i').length") == 0
    directions = "return [...document.querySelectorAll('.case .question')].map(e => getComputedStyle(e).direction)"
    assert set(driver.execute_script(directions)) == {"rtl"}
    for width in (390, 1280):
        size(driver, width)
        assert fits(driver, width)
        assert collisions(driver) == []


def test_every_control_is_reached_by_the_tab_key(driver: webdriver.Chrome, cases_run: Path) -> None:
    page = Page(driver, cases_run / "report.html", "#case-list")
    wanted = {"case-search", "case-verdict", "case-benchmark", "case-limit", "case-on"}
    seen: list[str] = []
    page.driver.execute_script("document.activeElement.blur()")
    for _ in range(40):
        driver.switch_to.active_element.send_keys(Keys.TAB)
        seen.append(driver.switch_to.active_element.get_attribute("id") or "")
    assert wanted <= set(seen)
