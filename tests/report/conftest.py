"""A run that several tests report on, and the browser that shows its page."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from lightreasoner import pipeline
from lightreasoner.config import RunConfig
from lightreasoner.recipes import load_recipe

from .pages import FLAGS, appearance, size


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of the miniature, cut short."""
    out = tmp_path_factory.mktemp("small") / "run"
    recipe = load_recipe("miniature")
    recipe["sample"] |= {"max_questions": 40}
    recipe["finetune"] |= {"steps": 12, "logging_steps": 2}
    recipe["evaluate"] |= {"max_items": 40}
    pipeline.run(RunConfig.checked({**recipe, "out": out}))
    return out


@pytest.fixture(scope="session")
def chrome() -> Iterator[webdriver.Chrome]:
    browser = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
    )
    manager = shutil.which("chromedriver")
    if not (browser and manager):
        pytest.skip("no chromium with its chromedriver on this machine (Debian: apt install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(manager))
    yield started
    started.quit()


@pytest.fixture
def driver(chrome: webdriver.Chrome) -> webdriver.Chrome:
    size(chrome, 1280)
    appearance(chrome, "light")
    return chrome
