"""Take the pictures in docs/images: a report and a comparison of runs, wide and narrow, light and dark.

    lightr run --out runs/mine
    lightr run --out runs/other --finetune.steps 200
    lightr report runs/mine runs/other
    python docs/take_screenshots.py runs/mine/report.html runs/mine/comparison.html docs/images

Look at all of them; the repository keeps those that a page shows.

Needs chromium and chromedriver (Debian: apt install chromium chromium-driver), selenium and pillow.
"""

import base64
import io
import sys
import time
from pathlib import Path

from PIL import Image
from selenium import webdriver

SCROLLS = {
    "report": "scrollTo(0, 0)",
    "tokens": "document.getElementById('browser').scrollIntoView()",
    "charts": "document.getElementById('divergence').scrollIntoView()",
    "cases": "document.getElementById('cases').scrollIntoView()",
}
OF_SEVERAL = {
    "comparison": "scrollTo(0, 0)",
    "curves": "document.getElementById('divergence').scrollIntoView()",
}
READY = "return [...document.querySelectorAll('#browser-root, #case-list')].every((one) => one.dataset.ready)"
HEIGHTS = {1280: 1180, 390: 844}


def main(report: Path, comparison: Path, folder: Path) -> None:
    """Open both pages in every size and appearance, and save pictures of their parts."""
    folder.mkdir(parents=True, exist_ok=True)
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--disable-background-networking",
    ):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    for width, height in HEIGHTS.items():
        metrics = {
            "width": width,
            "height": height,
            "deviceScaleFactor": 2 if width < 500 else 1,
            "mobile": width < 500,
        }
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        for scheme in ("light", "dark"):
            wanted = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
            features = [{"name": name, "value": value} for name, value in wanted.items()]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            for page, views in ((report, SCROLLS), (comparison, OF_SEVERAL)):
                driver.get(page.resolve().as_uri())
                while not driver.execute_script(READY):
                    time.sleep(0.05)
                for view, scroll in views.items():
                    _save(driver, scroll, view, folder / f"{view}-{width}-{scheme}.png", is_narrow=width < 500)
    driver.quit()


def _save(driver: webdriver.Chrome, scroll: str, view: str, file: Path, *, is_narrow: bool) -> None:
    """Scroll to a part of the page and save a picture of the screen."""
    if view == "tokens":
        _choose(driver)
        if is_narrow:  # where the card covers half of the screen
            scroll = "document.activeElement.scrollIntoView({block: 'center'})"
    driver.execute_script(scroll)
    time.sleep(0.3)
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    image = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)


def _choose(driver: webdriver.Chrome) -> None:
    """The rollouts with most kept steps, and one of their steps in the card."""
    driver.execute_script(
        "const sort = document.getElementById('sort'); sort.value = 'kept';"
        "sort.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    time.sleep(0.3)
    for number in range(100):  # up to a label of several tokens
        driver.execute_script("document.querySelectorAll('.rollout .t.kept')[arguments[0]].focus()", number)
        time.sleep(0.05)
        if driver.execute_script("return document.querySelectorAll('.opt.label').length") > 1:
            return


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
