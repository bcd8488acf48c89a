"""A page of the report in a real browser."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-background-networking --disable-sync "
    "--disable-component-update --disable-default-apps --disable-extensions --no-first-run --no-default-browser-check "
    "--disable-domain-reliability --metrics-recording-only --disable-client-side-phishing-detection"
)


class Page:
    """A page in the browser, and what a reader does with it."""

    def __init__(self, driver: webdriver.Chrome, file: Path, ready: str = "#browser-root") -> None:
        self.driver = driver
        driver.get_log("browser")
        driver.get_log("performance")
        driver.get(file.resolve().as_uri())
        script = "return document.readyState === 'complete' && (!arguments[0] || "
        script += "document.querySelector(arguments[0]).dataset.ready)"
        self.until(lambda: driver.execute_script(script, ready))

    def until(self, holds: Callable[[], Any], seconds: float = 10) -> Any:
        end = time.monotonic() + seconds
        while not (value := holds()):
            assert time.monotonic() < end, self.driver.get_log("browser")
            time.sleep(0.02)
        return value

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return str(self.driver.execute_script("return document.querySelector(arguments[0]).textContent", selector))

    def token(self, rollout: int, step: int) -> WebElement:
        return self.one(f'[data-at="{rollout} {step}"]')

    def card(self, rollout: int, step: int) -> list[list[str]]:
        """The texts in the card: lines of `option`s as lists of cells."""
        self.until(lambda: self.one("#card").get_attribute("data-at") == f"{rollout} {step}")
        script = (
            "return [...document.querySelectorAll('#card .opt')].map(row => [row.className, row.querySelector('.m')."
        )
        script += "textContent, row.querySelector('.x').textContent, row.querySelector('.p').textContent])"
        found: list[list[str]] = self.driver.execute_script(script)
        return found

    def set(self, name: str, value: str | bool) -> None:
        script = "const e = document.getElementById(arguments[0]); "
        script += "if (e.type === 'checkbox') e.checked = arguments[1]; else e.value = arguments[1];"
        self.driver.execute_script(script + "e.dispatchEvent(new Event('input', {bubbles: true}))", name, value)

    def shown(self) -> list[int]:
        script = "return [...document.querySelectorAll('.rollout')].map(e => +e.id.split('-')[1])"
        found: list[int] = self.driver.execute_script(script)
        return found


def size(driver: webdriver.Chrome, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def appearance(driver: webdriver.Chrome, scheme: str, media: str = "") -> None:
    features = [
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


# Texts of charts that lie over one another, or beside the screen: pairs of texts. Elements that are not shown have no
# size. A rectangle is that of the letters, so that a narrow text in a wide box does not count as wide.
COLLISIONS = """
const area = (node) => { const range = document.createRange(); range.selectNodeContents(node);
  return range.getBoundingClientRect(); };
const found = [], width = document.documentElement.clientWidth;
let looked = 0;
for (const section of document.querySelectorAll('section, header')) {
  const nodes = [...section.querySelectorAll('svg text, .chart h3, .plots .name, .plots .num, .axis span, .key span')];
  const boxes = nodes.map((node) => [node, area(node)]).filter(([, box]) => box.width > 0 && box.height > 0);
  looked += boxes.length;
  boxes.forEach(([node, box], place) => {
    if (box.left < -0.5 || box.right > width + 0.5) found.push(['beside the screen', node.textContent]);
    for (const [other, its] of boxes.slice(place + 1)) {
      if (node.contains(other) || other.contains(node)) continue;
      const across = Math.min(box.right, its.right) - Math.max(box.left, its.left);
      const down = Math.min(box.bottom, its.bottom) - Math.max(box.top, its.top);
      if (across > 0.5 && down > 2) found.push([node.textContent, other.textContent]);
    }
  });
}
return [found, looked];
"""


def collisions(driver: webdriver.Chrome) -> list[list[str]]:
    """Pairs of texts in charts that overlap. Fails if there is no text to look at."""
    found, looked = driver.execute_script(COLLISIONS)
    assert looked
    pairs: list[list[str]] = found
    return pairs


def fits(driver: webdriver.Chrome, width: int) -> bool:
    """Whether the page needs no scrolling sideways."""
    return bool(driver.execute_script("return document.documentElement.scrollWidth <= arguments[0]", width))
