"""The page in a real browser: opened from disk, driven by mouse and keyboard, compared with the Parquet rows."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from transformers import PreTrainedTokenizerFast

from lightreasoner import show
from lightreasoner.config import InspectConfig
from lightreasoner.inspection import inspect
from lightreasoner.report import report, write_page
from lightreasoner.report.tokens import find_texts, visible
from lightreasoner.samples.folder import Label, Rollout

from ..fake_runs import fake_rollout, write_samples
from .pages import Page, appearance, size

HOSTILE = (
    "<script>document.title='hacked'</script>",
    "</script><script>document.title='hacked'</script>",
    "<img src=x onerror=\"document.title='hacked'\">",
    "<!-- <script>",
    "]]> --> </style> </textarea> {{ 7 * 7 }} ${7 * 7}",
    "line\u2028separator\u2029and\x1b[31mred\x07\u202eturned",
    "javascript:document.title='hacked' \" onmouseover='document.title=1' &lt;b&gt;",
)
Row = tuple[Rollout, list[Label]]


@pytest.fixture(scope="module")
def rows(tokenizer: PreTrainedTokenizerFast) -> list[Row]:
    """64 rollouts: questions and responses of every hostile kind among plain ones."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(64):
        hostile = HOSTILE[number % len(HOSTILE)] if number % 3 == 0 else ""
        text = f"{hostile or 'First 3+4=7.'} So the answer is {number} 😀\n\tdone"
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        found.append(fake_rollout(number, f"{hostile} How many are {number}?", ids, len(tokenizer), rng))
    return found


@pytest.fixture(scope="module")
def run(rows: list[Row], tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made-up")
    write_samples(folder, rows, tokenizer)
    write_page(folder)
    return folder


@pytest.fixture
def page(driver: webdriver.Chrome, run: Path) -> Page:
    return Page(driver, run / "report.html")


def requests(driver: webdriver.Chrome) -> list[str]:
    messages = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def test_the_page_opens_from_disk_without_requests_or_errors(page: Page, run: Path) -> None:
    page.one("#next").click()
    page.one("#on").click()
    page.until(lambda: "page 2" in page.text("#page"))
    assert page.driver.get_log("browser") == []
    asked = [url for url in requests(page.driver) if not url.startswith("data:")]
    assert asked == [(run / "report.html").resolve().as_uri()]
    assert page.driver.execute_script("return performance.getEntriesByType('resource').length") == 0
    text = (run / "report.html").read_text()
    assert "default-src 'none'" in text
    assert "unsafe" not in text.split("<style>")[0]
    assert "http" not in text.split('<script type="application/json"')[0].replace("http-equiv", "")


def test_the_page_works_in_the_frame_of_a_notebook(driver: webdriver.Chrome, run: Path, tmp_path: Path) -> None:
    cell = tmp_path / "cell.html"
    cell.write_text(f"<!doctype html><meta charset='utf-8'><title>a notebook</title>{show(run)._repr_html_()}", "utf-8")
    driver.get_log("browser")
    driver.get(cell.as_uri())
    frame = driver.find_element(By.TAG_NAME, "iframe")
    driver.switch_to.frame(frame)
    try:
        framed = Page.__new__(Page)
        framed.driver = driver
        framed.until(lambda: driver.execute_script("return document.getElementById('browser-root').dataset.ready"))
        assert framed.shown() == list(range(10))
        for link in ("nav a[href='#labels']", "#rollouts h3 a"):  # links within the page stay in it
            driver.execute_script("document.querySelector(arguments[0]).click()", link)
            assert framed.until(lambda: framed.one("#browser-root").get_attribute("data-ready")) == "yes"
        framed.until(lambda: framed.one("#card").get_attribute("data-at") == "0 0")
        assert driver.get_log("browser") == []
        driver.execute_script("try { parent.document.title = 'hacked' } catch {}")
    finally:
        driver.switch_to.default_content()
    assert driver.title == "a notebook"


def percent(logprob: float) -> str:
    units = round(10_000 * math.exp(logprob))
    return f"{units / 100:.2f} %" if units else "<0.01 %"


def seen(text: str) -> str:
    """Line breaks, tabs, and blanks at the ends, which the card makes visible."""
    inner = text.strip(" ")
    blanks = [len(text) - len(text.lstrip(" ")), len(text) - len(text.rstrip(" "))] if inner else [len(text), 0]
    return "␣" * blanks[0] + inner.replace("\n", "↵").replace("\t", "→") + "␣" * blanks[1]


def expected_card(row: Row, position: int, texts: Any) -> list[list[str]]:
    """What the card says of a step, from the rows."""
    rollout, steps = row
    taken = rollout.response_ids[position]
    lines = []
    for name, ids, logprobs, of_taken in (
        ("expert", rollout.expert_top_ids, rollout.expert_top_logprobs, rollout.expert_logprob),
        ("amateur", rollout.amateur_top_ids, rollout.amateur_top_logprobs, rollout.amateur_logprob),
    ):
        highest = logprobs[position][0]
        for token, logprob in zip(ids[position], logprobs[position], strict=True):
            inside = name == "expert" and math.exp(logprob - highest) >= 0.2
            lines.append([name, "●" if inside else "", token, percent(logprob)])
        if taken not in ids[position]:
            lines.append([name, "", taken, percent(of_taken[position])])
    label = next((step for step in steps if step.position == position), None)
    if label is not None:
        pairs = sorted(zip(label.token_ids, label.weights, strict=True), key=lambda pair: -pair[1])
        lines += [["label", "●", token, percent(math.log(weight))] for token, weight in pairs]
    return [[f"opt {name}", mark, seen(texts.token(token).text), share] for name, mark, token, share in lines]


def stored(row: Row) -> Row:
    """The rows as Parquet gives them back: in float32."""
    rollout, steps = row
    return next(Rollout.rows(Rollout.table([rollout]))), list(Label.rows(Label.table(steps)))


def test_hovering_and_moving_by_keyboard_reveal_the_numbers_of_the_rows(page: Page, rows: list[Row], run: Path) -> None:
    texts = find_texts([(str(run / "merged"), None)])
    for number in (0, 1, 3):
        row = stored(rows[number])
        length = len(row[0].response_ids)
        for position in (0, 1, length // 2, length - 1):
            ActionChains(page.driver).move_to_element(page.token(number, position)).perform()
            assert page.card(number, position) == expected_card(row, position, texts)
            assert page.text("#card .kl strong") == f"{round(1000 * row[0].kl[position]) / 1000:.3f}"
            assert f"step {position} of {length}" in page.text("#card .where")
            entropies = [page.text(f"#card h4:nth-of-type({place}) span") for place in (1, 2)]
            wanted = (row[0].expert_entropy[position], row[0].amateur_entropy[position])
            assert entropies == [f"entropy {round(1000 * value) / 1000:.3f} nats" for value in wanted]
            kept = any(step.position == position for step in row[1])
            assert page.text("#card .kl span:last-child") == ("kept" if kept else "not kept")
    page.token(1, 0).send_keys(Keys.ARROW_RIGHT)
    page.driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert page.card(1, 2) == expected_card(stored(rows[1]), 2, texts)
    page.driver.switch_to.active_element.send_keys(Keys.END)
    last = len(rows[1][0].response_ids) - 1
    assert page.card(1, last) == expected_card(stored(rows[1]), last, texts)
    page.driver.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    assert page.card(2, 0) == expected_card(stored(rows[2]), 0, texts)


def test_n_and_p_go_from_kept_step_to_kept_step_over_the_pages(page: Page, rows: list[Row]) -> None:
    kept = [(number, step.position) for number, (_, steps) in enumerate(rows) for step in steps]
    body = page.one("body")
    start = next(place for place, (number, _) in enumerate(kept) if number >= 9)
    page.driver.execute_script("location.hash = arguments[0]", f"#r-{kept[start][0]}-{kept[start][1]}")
    page.until(lambda: page.one("#card").get_attribute("data-at") == f"{kept[start][0]} {kept[start][1]}")
    for direction in (1, -1):
        for offset in range(1, 30):
            body.send_keys("n" if direction > 0 else "p")
            place = start + offset if direction > 0 else start + 29 - offset
            page.until(lambda at=kept[place]: page.one("#card").get_attribute("data-at") == f"{at[0]} {at[1]}")
    assert page.one(".on") == page.driver.switch_to.active_element


def matching(rows: list[Row], wanted: Callable[[float, bool, bool], bool], text: str = "") -> tuple[int, int]:
    """Tokens and rollouts that a filter should leave, counted from the rows."""
    tokens = rollouts = 0
    for rollout, steps in map(stored, rows):
        if text not in rollout.question.lower():
            continue
        kept = {step.position for step in steps}
        mine = sum(
            wanted(round(1000 * kl) / 1000, at in kept, rollout.expert_top_ids[at][0] == rollout.amateur_top_ids[at][0])
            for at, kl in enumerate(rollout.kl)
        )
        tokens, rollouts = tokens + mine, rollouts + bool(mine)
    return tokens, rollouts


def test_filters_count_the_matching_rows(page: Page, rows: list[Row]) -> None:
    def count() -> tuple[int, int]:
        words = page.text("#count").replace(",", "").split()
        return int(words[0]), int(words[3])

    assert count() == matching(rows, lambda kl, kept, same: True)
    page.set("kept", True)
    assert count() == matching(rows, lambda kl, kept, same: kept)
    page.set("agreement", "differ")
    assert count() == matching(rows, lambda kl, kept, same: kept and not same)
    page.set("low", "0.5")
    page.set("high", "1.5")
    assert count() == matching(rows, lambda kl, kept, same: kept and not same and 0.5 <= kl <= 1.5)
    page.set("kept", False)
    page.set("agreement", "agree")
    page.set("low", "")
    page.set("high", "")
    assert count() == matching(rows, lambda kl, kept, same: same)
    page.set("agreement", "any")
    page.set("search", "ONERROR")
    assert count() == matching(rows, lambda kl, kept, same: True, "onerror")
    page.set("search", "nothing has this")
    assert count() == (0, 0)
    assert "Nothing matches" in page.text("#rollouts")
    page.one("#filters button[type=reset]").click()
    page.until(lambda: count() == matching(rows, lambda kl, kept, same: True))
    highest = sorted(range(len(rows)), key=lambda number: -max(round(1000 * kl) for kl in stored(rows[number])[0].kl))
    page.set("sort", "max")
    page.until(lambda: page.shown() == highest[:10])


def test_hostile_text_is_shown_literally_and_has_no_effect(page: Page, rows: list[Row], run: Path) -> None:
    texts = find_texts([(str(run / "merged"), None)])
    title = page.driver.title
    for number in range(0, 64, 3):
        page.driver.execute_script("location.hash = arguments[0]", f"#r-{number}")
        page.until(lambda at=number: page.one("#card").get_attribute("data-at") == f"{at} 0")
        rollout = rows[number][0]
        assert page.text(f"#rollout-{number} .question") == visible(rollout.question)
        shown = page.text(f"#rollout-{number} .tokens")
        assert shown == "".join(texts.token(index).text for index in rollout.response_ids).replace("\n", "↵\n")
    assert page.driver.title == title
    script = "return document.querySelectorAll('script:not([type]), img, #rollouts script, [onerror]').length"
    assert page.driver.execute_script(script) == 1  # the page's own script
    assert page.driver.get_log("browser") == []


def test_a_link_reaches_a_rollout_that_the_filters_hide(page: Page) -> None:
    page.set("search", "nothing has this")
    page.driver.execute_script("location.hash = '#r-40-3'")
    page.until(lambda: page.one("#card").get_attribute("data-at") == "40 3")
    assert page.driver.switch_to.active_element == page.token(40, 3)
    assert page.one("#search").get_attribute("value") == ""


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_overflows_in_light_dark_and_print(page: Page, width: int) -> None:
    size(page.driver, width)
    colours = []
    for scheme in ("light", "dark"):
        appearance(page.driver, scheme)
        assert page.driver.execute_script("return document.documentElement.scrollWidth") <= width
        colours.append(page.driver.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert colours[0] != colours[1]
    appearance(page.driver, "dark", media="print")
    assert page.driver.execute_script("return getComputedStyle(document.body).color") == "rgb(27, 26, 23)"  # on white
    assert not page.one("#filters").is_displayed()
    assert page.one("#rollouts").is_displayed()


def test_on_a_phone_the_card_covers_no_other_section(page: Page) -> None:
    size(page.driver, 390)
    page.token(0, 1).click()
    page.until(lambda: page.one("#card").is_displayed())
    page.driver.execute_script("document.getElementById('settings').scrollIntoView()")
    page.until(lambda: not page.one("#card").is_displayed())
    page.driver.execute_script("document.getElementById('browser').scrollIntoView()")
    assert page.until(lambda: page.one("#card").is_displayed())


CONTRAST = """
const lum = c => { const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
  .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const under = e => { const c = getComputedStyle(e).backgroundColor;
  return c === 'rgba(0, 0, 0, 0)' ? under(e.parentElement) : c; };
return [...document.querySelectorAll(arguments[0])].map(e => { const a = lum(getComputedStyle(e).color),
  b = lum(under(e)); return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); });
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_and_every_control_has_a_name(page: Page, scheme: str) -> None:
    appearance(page.driver, scheme)
    ratios = page.driver.execute_script(
        CONTRAST, ".t:not(.ctl), h1, h2, p, td, th, dt, dd, label, nav a, button:enabled"
    )
    assert len(ratios) > 300
    assert min(ratios) >= 4.5
    nameless = "return [...document.querySelectorAll('input, select, button, svg[role=img], .t')].filter(e => "
    nameless += "!(e.ariaLabel || e.textContent.trim() || e.labels?.length)).map(e => e.outerHTML)"
    assert page.driver.execute_script(nameless) == []
    # The scale grows darker (or lighter) step by step, so that it is read without telling colours apart.
    shades = page.driver.execute_script(
        "return [1,2,3,4,5,6,7,8].map(k => { const e = document.createElement('i'); e.className = 's' + k;"
        "document.body.append(e); const c = getComputedStyle(e).backgroundColor.match(/\\d+/g); e.remove();"
        "return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2]; })"
    )
    assert shades == sorted(shades, reverse=scheme == "light")
    assert min(abs(np.diff(shades))) > 8


def test_inspect_writes_the_same_browser_for_one_question(driver: webdriver.Chrome, tmp_path: Path) -> None:
    question = "Ben has 33 marbles. Then 25 marbles are found. </script><b>How many marbles are left?"
    config = InspectConfig(
        expert="miniature/expert", amateur="miniature/base", question=question, max_new_tokens=48, dtype="float32",
        html=tmp_path / "one.html",
    )  # fmt: skip
    facts = inspect(config)
    page = Page(driver, tmp_path / "one.html")
    assert page.text("h1") == question
    assert page.text("#count") == f"{facts['steps']} tokens in 1 rollout"
    assert not page.one("#search").is_displayed()
    assert page.one("#kept").is_displayed()
    assert len(driver.find_elements(By.CSS_SELECTOR, "#rollouts .t.kept")) == facts["kept_steps"]
    assert driver.get_log("browser") == []


@pytest.mark.slow
def test_a_thousand_long_rollouts_give_a_small_page_in_flat_memory(
    driver: webdriver.Chrome, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """At most 15 MB, with a peak of memory that hardly grows with the number of rollouts."""
    rng = np.random.default_rng(0)
    peaks = []
    for rollouts in (250, 1000):
        run = tmp_path / str(rollouts)
        ids = rng.integers(3, len(tokenizer), (rollouts, 128)).tolist()
        rows = [
            fake_rollout(number, f"How many are {number}?", row, len(tokenizer), rng) for number, row in enumerate(ids)
        ]
        write_samples(run, rows, tokenizer)
        del rows
        script = "import re, sys\nfrom pathlib import Path\nfrom lightreasoner.report import write_page\n"
        script += "write_page(Path(sys.argv[1]))\n"
        # Not getrusage: its peak includes the memory of the parent process.
        script += "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])"
        done = subprocess.run(
            [sys.executable, "-c", script, str(run)], capture_output=True, text=True, check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        peaks.append(float(done.stdout) / 1024)
    page = Page(driver, tmp_path / "1000" / "report.html")
    page.set("sort", "max")
    page.set("kept", True)
    page.until(lambda: len(page.shown()) == 10 and page.text("#count") != "")
    assert (tmp_path / "1000" / "report.html").stat().st_size <= 15e6
    assert peaks[1] - peaks[0] <= 40
    kept = report(tmp_path / "1000").labels.kept
    assert page.text("#count").replace(",", "").startswith(f"{kept} tokens")


def test_cost_and_label_figures_on_the_page_are_those_of_the_report(small_run: Path) -> None:
    found = report(small_run)
    html = (small_run / "report.html").read_text()
    facts = {
        re.sub(r"<.*?>", "", name): re.sub(r"<.*?>", " ", value).strip()
        for name, value in re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", html)
    }
    labels, cost = found.labels, found.cost
    assert labels is not None
    assert facts["labels"] == str(labels.kept)
    assert facts["Steps kept"].split() == [str(labels.kept), "of", f"{labels.steps:,}"]
    assert facts["Problems"].split()[0] == str(cost.problems)
    assert facts["Tuned tokens"] == str(cost.tuned_tokens)
    assert facts["Gain"].startswith(f"{cost.gain:+.1f} points")
    assert facts["tokens generated in rollouts"] == f"{cost.generated_tokens:,}"
    assert facts["tokens scored, both models"] == f"{cost.scored_tokens:,}"
    assert facts["rollouts ended with a stop token"] == f"{labels.finished} of {labels.rollouts}"
    for name, value in (
        ("of one token", labels.single_token),
        ("top-1 tokens agree", labels.agree),
        ("kept where they agree", labels.agree_above_beta),
    ):
        assert facts[name] == f"{100 * value:.1f} %"
    for name, value in (
        ("tokens in a label, mean", labels.mean_support),
        ("label entropy, mean", labels.mean_entropy),
        ("mean KL where they agree", labels.mean_kl_agree),
        ("mean KL where they differ", labels.mean_kl_disagree),
    ):
        assert facts[name].split()[0] == f"{value:.3f}"
    for name, seconds in cost.seconds.items():
        assert facts[name.replace("_", " ")] == f"{seconds:.0f} s"
    sizes = re.search(r"<h3>Tokens in a label</h3>.*?</table>", html, re.DOTALL)
    assert sizes is not None
    assert re.findall(r'<td class="n">(.*?)</td>', sizes[0]) == [f"{count:,}" for count in labels.supports]
