"""The site as it is built: no warning, no broken link, nothing from a network, every public name."""

import inspect
import json
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import cached_property, partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import NamedTuple
from urllib.parse import unquote

import pytest

import lightreasoner
from lightreasoner import contrast, errors
from lightreasoner.config import sections
from lightreasoner.config.base import Config

from .pages import DOCS, ROOT, name, site_pages, tokens

# What a browser loads of a page by itself, by tag: the attribute with the address.
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "object": "data"}
COUNTED = {"table": "table_open", "tr": "tr_open", "li": "list_item_open", "pre": "pre"}


class Built(NamedTuple):
    """The build of the site, as `make docs` does it, in a folder of its own."""

    folder: Path
    process: subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    pytest.importorskip("zensical", reason="the extra docs is not installed")
    pytest.importorskip("mkdocstrings_handlers.python", reason="the extra docs is not installed")
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    shutil.copytree(DOCS, folder / "docs")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("models", "__pycache__", "*.egg-info"))
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    return Built(folder, subprocess.run(command, cwd=folder, text=True, capture_output=True, check=False))


class Page(HTMLParser):
    """A page: ids, links, what it loads, and how many elements of a kind its article has."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.counts: Counter[str] = Counter()
        self._in_article = False
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self._in_article |= tag == "article"
        self.ids |= {values[key] for key in ("id", "name") if key in values}
        if address := values.get(LOADED.get(tag, ""), ""):
            self.loaded.append(address)
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if self._in_article:
            self.counts[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        self._in_article &= tag != "article"


class Site:
    """All pages of the built site."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def pages(self) -> dict[Path, Page]:
        return {file.resolve(): Page(file) for file in self.folder.rglob("*.html") if file.name != "404.html"}


@pytest.fixture(scope="session")
def read(built: Built) -> Site:
    assert built.process.returncode == 0, built.process.stdout + built.process.stderr
    return Site(built.folder / "site")


def test_the_site_builds_without_a_warning(built: Built) -> None:
    said = built.process.stdout + built.process.stderr
    assert built.process.returncode == 0, said
    assert "No issues found" in said
    assert "arning" not in said


def test_every_page_is_built_and_every_link_and_anchor_leads_somewhere(read: Site) -> None:
    expected = {(read.folder / page.relative_to(DOCS).with_suffix(".html")).resolve() for page in site_pages()}
    assert expected <= read.pages.keys()
    broken = []
    for file, page in read.pages.items():
        for link in (*page.links, *page.loaded):
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = unquote(link).partition("#")
            target = (file.parent / path.partition("?")[0]).resolve() if path else file
            if not target.exists() or (anchor and target in read.pages and anchor not in read.pages[target].ids):
                broken.append((file.name, link))
    assert broken == []


def test_a_page_loads_nothing_from_a_network(read: Site) -> None:
    remote = re.compile(r"(?:https?:)?//", re.IGNORECASE)
    assert [(file.name, link) for file, page in read.pages.items() for link in page.loaded if remote.match(link)] == []
    styles = {file.name: file.read_text(encoding="utf-8") for file in read.folder.rglob("*.css")}
    assert styles
    addresses = re.compile(r"(?:@import\s+|url\()\s*[\"']?((?:https?:)?//[^\"')]+)", re.IGNORECASE)
    assert {name: found for name, text in styles.items() if (found := addresses.findall(text))} == {}


def public(module: ModuleType) -> Iterator[str]:
    for key, value in vars(module).items():
        if not key.startswith("_") and getattr(value, "__module__", None) == module.__name__:
            yield f"{module.__name__}.{key}"


def test_every_public_name_and_setting_is_in_the_api_reference(read: Site) -> None:
    ids = read.pages[(read.folder / "api.html").resolve()].ids
    names = {f"lightreasoner.{name}" for name in lightreasoner.__all__}
    configs = [getattr(lightreasoner, name) for name in lightreasoner.__all__ if name.endswith("Config")]
    names |= {f"lightreasoner.{config.__name__}.{field}" for config in configs for field in config.model_fields}
    names |= {*public(contrast), *public(errors)}
    for kind in vars(sections).values():
        used = (
            inspect.isclass(kind)
            and issubclass(kind, Config)
            and f"lightreasoner.config.sections.{kind.__name__}" in ids
        )
        names |= (
            {f"lightreasoner.config.sections.{kind.__name__}.{field}" for field in kind.model_fields} if used else set()
        )
    assert names - ids == set()
    assert len(names) > 100


def test_the_site_shows_the_lists_and_tables_that_github_shows(read: Site) -> None:
    """The two readers of Markdown differ in what begins a list or a table."""
    different = []
    for page in site_pages():
        if page.name == "api.md":
            continue
        shown = read.pages[(read.folder / page.relative_to(DOCS).with_suffix(".html")).resolve()].counts
        meant = Counter(token.type for token in tokens(page))
        meant["pre"] = meant["fence"] + meant["code_block"]
        found = {tag: (shown[tag], meant[kind]) for tag, kind in COUNTED.items() if shown[tag] != meant[kind]}
        if found:
            different.append((name(page), found))
    assert different == []


def test_the_search_index_holds_the_texts(read: Site) -> None:
    texts = json.dumps(json.loads((read.folder / "search.json").read_text(encoding="utf-8")))
    assert "contrastive" in texts
    assert "faq.html#resume-on-slurm" in texts


@pytest.mark.slow
def test_a_browser_asks_no_other_host(built: Built) -> None:
    """Pages, scripts and the search, as a browser loads them from a server."""
    selenium = pytest.importorskip("selenium.webdriver")
    browser, manager = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or manager is None:
        pytest.skip("no chromium with its chromedriver on this machine (Debian: apt install chromium chromium-driver)")
    options = selenium.ChromeOptions()
    options.binary_location = browser
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    handler = partial(SimpleHTTPRequestHandler, directory=str(built.folder / "site"))
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        selenium.Chrome(options=options, service=selenium.ChromeService(manager)) as chrome,
    ):
        Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}/"
        asked: list[str] = []
        for page in ("index", "faq", "api", "results"):
            chrome.get(f"{here}{page}.html")
            end = time.monotonic() + 20
            while not any(url.startswith(f"{here}search.js") for url in asked) and time.monotonic() < end:
                events = (json.loads(entry["message"])["message"] for entry in chrome.get_log("performance"))
                asked += [
                    one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"
                ]
                time.sleep(0.1)
        server.shutdown()
    assert f"{here}search.json" in asked
    assert [url for url in asked if not url.startswith((here, "blob:", "data:", "chrome:"))] == []
