"""Uploads and downloads against a Hub on this machine: what arrives, what is refused, what is tried again."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download

from lightreasoner.data import hub as hub_module
from lightreasoner.data.cards import Licence, card, escaped, fenced, licence_lines
from lightreasoner.data.hub import Target, Uploaded, find_target, licence_of, upload
from lightreasoner.errors import HubRefused, HubUnreachable, LightReasonerError
from lightreasoner.models.shape import read_config
from lightreasoner.models.source import _download, find_model

from ..fake_hub import OF_ANOTHER, READ, WRITE, FakeHub, Fault, card_errors, serving, sha256, used

CARD = card({"license": "mit", "tags": ["lightreasoner"]}, ["# toy"]).encode()
FILES: dict[str, Path | bytes] = {
    "README.md": CARD,
    "config.json": b"{}",
    "model-1.safetensors": b"first weights" * 1000,
    "model-2.safetensors": b"second weights" * 1000,
}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    with serving() as server, used(server, tmp_path / "home"):
        yield server


def push(files: dict[str, Path | bytes] = FILES, *, public: bool = False, tag: str = "run-1") -> Uploaded:
    target = find_target("ann/toy", "model", public=public)
    return upload(target, files, tag=tag, message="Push of run", public=public)


def content(files: dict[str, Path | bytes]) -> dict[str, bytes]:
    return {name: one if isinstance(one, bytes) else one.read_bytes() for name, one in files.items()}


# --- What arrives ---


def test_an_upload_is_one_private_commit_with_a_tag(hub: FakeHub, tmp_path: Path) -> None:
    on_disk = tmp_path / "weights"
    on_disk.write_bytes(b"on disk" * 3000)
    files = {**FILES, "model-3.safetensors": on_disk}
    sent = push(files)
    found = hub.model()
    assert found.private
    assert sent.private
    assert {name: one for name, one in found.files.items() if name != ".gitattributes"} == content(files)
    assert len(found.commits) == 2, "that of the new repository, and one for all files"
    assert (found.tags, sent.commit) == ({"run-1": found.head}, found.head)
    assert found.messages[found.head] == "Push of run"
    assert sent.url == f"{hub.url}/ann/toy/tree/run-1"


def test_a_large_file_goes_in_parts(hub: FakeHub) -> None:
    hub.chunk = 5000
    push()
    assert len(hub.asked("PUT /part/")) == 3 + 3
    assert hub.model().files["model-2.safetensors"] == FILES["model-2.safetensors"]


def test_the_same_push_again_changes_nothing(hub: FakeHub) -> None:
    first, head = push(), hub.model().head
    assert push() == first
    assert hub.model().head == head
    assert len(hub.asked("PUT /lfs/")) == 2


def test_another_push_replaces_what_would_mean_something_else_and_leaves_the_rest(hub: FakeHub) -> None:
    push()
    found = hub.model()
    found.commit({**found.files, "notes.txt": b"by hand", "figures/a.json": b"{}", ".eval_results/old.yaml": b"[]"})
    push({"README.md": CARD, "adapter_model.safetensors": b"a"}, tag="run-2")
    assert set(found.files) == {
        ".gitattributes", "README.md", "adapter_model.safetensors", "notes.txt", "figures/a.json",
    }  # fmt: skip
    assert set(found.tags) == {"run-1", "run-2"}
    assert set(found.commits[found.tags["run-1"]]) == {".gitattributes", *FILES}


def test_a_tag_of_the_same_run_moves_to_its_newest_commit(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    push()
    push({**FILES, "README.md": CARD + b"\nwith figures\n"})
    found = hub.model()
    assert found.tags == {"run-1": found.head}
    assert "is moved" in capsys.readouterr().err


# --- What is tried again ---


def test_an_interrupted_upload_continues_with_what_has_not_arrived(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "ATTEMPTS", 2)
    second = sha256(content(FILES)["model-2.safetensors"])
    hub.faults = [Fault(f"PUT /lfs/{second}", after=100, times=1000)]
    with pytest.raises(HubUnreachable, match="files that arrived are not sent twice"):
        push()
    assert set(hub.model().files) == {".gitattributes"}, "no commit with a part of the files"
    assert hub.model().tags == {}
    hub.faults, before = [], len(hub.requests)
    push()
    again = [one.path for one in hub.requests[before:] if one.method == "PUT"]
    assert again == [f"/lfs/{second}"]
    assert set(hub.model().files) == {".gitattributes", *FILES}


@pytest.mark.parametrize(
    "request_line",
    [
        "POST /api/repos/create", "POST /api/validate-yaml", "POST .*/preupload/", "POST .*/objects/batch",
        "PUT /lfs/", "POST /verify", "POST .*/commit/", "GET .*/refs", "POST .*/tag/",
    ],
)  # fmt: skip
@pytest.mark.parametrize("status", [503, None])
def test_each_request_may_fail_twice(hub: FakeHub, request_line: str, status: int | None) -> None:
    hub.faults = [Fault(request_line, status, times=2)]
    push()
    assert hub.faults[0].times == 0, "the fault never came"
    found = hub.model()
    assert found.private
    assert set(found.files) == {".gitattributes", *FILES}
    assert found.tags == {"run-1": found.head}


def test_a_commit_whose_answer_is_lost_is_not_made_twice(hub: FakeHub) -> None:
    hub.faults = [Fault("POST .*/commit/", lost=True)]
    push()
    assert len(hub.model().commits) == 2
    assert hub.model().tags == {"run-1": hub.model().head}


def test_what_will_not_pass_is_not_tried_again(hub: FakeHub) -> None:
    bad = card({"license": "of my own", "tags": ["lightreasoner"]}, ["# toy"]).encode()
    with pytest.raises(HubRefused, match=r"Invalid metadata in README.md.*license"):
        push({**FILES, "README.md": bad})
    assert len(hub.asked("POST /api/validate-yaml")) == 1
    assert hub.asked("PUT /lfs/") == [], "the card is checked before anything large is sent"


# --- What is refused ---


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "there is no token for the Hub"),
        ("hf_mistyped", "the Hub does not know the token"),
        (READ, "the token of ann may only read"),
        (OF_ANOTHER, "the Hub refuses the push to ann/toy: .*The token needs the right to write to ann"),
    ],
)
def test_without_a_token_that_may_write_nothing_is_sent(
    token: str | None, message: str, hub: FakeHub, tmp_path: Path
) -> None:
    with used(hub, tmp_path / "other", token), pytest.raises(HubRefused, match=message) as caught:
        push()
    assert token is None or token not in str(caught.value)
    assert "hf auth login" in str(caught.value)
    assert hub.repositories == {}
    assert hub.asked("PUT") == []


def test_a_public_repository_takes_nothing_unasked(hub: FakeHub) -> None:
    found = hub.add("model", "ann/toy", {"README.md": CARD})
    with pytest.raises(HubRefused, match="is public: everybody could read what is sent"):
        push()
    assert len(found.commits) == 1
    assert not push(public=True).private
    assert len(found.commits) == 2


def test_a_private_repository_stays_private(hub: FakeHub) -> None:
    push()
    assert push(public=True).private
    assert hub.model().private
    assert not [
        one for one in hub.requests if "settings" in one.path or (one.method == "PUT" and "lfs" not in one.path)
    ]


def test_a_repository_that_became_public_meanwhile_takes_nothing(hub: FakeHub) -> None:
    hub.add("model", "ann/toy", {})
    with pytest.raises(HubRefused, match="is public"):
        upload(Target("ann/toy", "model", None), FILES, tag="t", message="m", public=False)
    assert set(hub.model().files) == {".gitattributes"}


def test_files_of_another_origin_are_not_replaced(hub: FakeHub) -> None:
    found = hub.add("model", "ann/toy", {"model.safetensors": b"their own"}, private=True)
    with pytest.raises(HubRefused, match=r"holds 1 files of another origin \(model.safetensors\)"):
        push()
    found.commit({**found.files, "README.md": CARD})
    push()
    assert "model.safetensors" not in found.files


@pytest.mark.parametrize("name", ["ann/to--y", "ann/.toy", "ann/toy.git", "ann/" + "t" * 100])
def test_an_impossible_name_is_refused_before_the_hub_is_asked(name: str, hub: FakeHub) -> None:
    with pytest.raises(HubRefused, match="--to"):
        find_target(name, "model", public=False)
    assert hub.requests == []


# --- Without a Hub ---


def test_offline_is_said_at_once(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubUnreachable, match="HF_HUB_OFFLINE is set, so nothing is sent to ann/toy.*--save FOLDER"):
        push()
    assert hub.requests == []


def test_a_hub_that_is_not_there_fails_within_seconds(hub: FakeHub, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        gone = FakeHub()
        gone.port = closed.getsockname()[1]
    began = time.monotonic()
    with used(gone, tmp_path / "other"), pytest.raises(HubUnreachable, match="the Hub does not answer"):
        push()
    assert time.monotonic() - began < 5


def test_a_silent_hub_fails_within_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "TIMEOUT", 0.3)
    silent = FakeHub()
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        silent.port = server.getsockname()[1]
        began = time.monotonic()
        with used(silent, tmp_path / "other"), pytest.raises(HubUnreachable, match="the Hub does not answer"):
            push()
    assert time.monotonic() - began < 5


def test_no_message_holds_the_token_or_an_address_that_gives_access(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hub_module, "ATTEMPTS", 2)
    for fault in (Fault("PUT /lfs/", 503, times=1000), Fault("PUT /lfs/", 403, times=1000)):
        hub.faults = [fault]
        with pytest.raises(LightReasonerError) as caught:
            push()
        told = "".join([str(caught.value), *capfd.readouterr()])
        assert "ann/toy" in told
        assert not [secret for secret in (WRITE, "sign-secret", "Bearer") if secret in told]


# --- Licences ---


def carded(**metadata: object) -> dict[str, bytes]:
    return {"README.md": card(metadata, ["# card"]).encode()}


def test_licences_are_those_of_the_cards(hub: FakeHub) -> None:
    hub.add("model", "a/free", carded(license="Apache-2.0"))
    hub.add("dataset", "a/free", carded(license=["mit", "cc-by-4.0"]))
    hub.add("model", "a/own", carded(license="other", license_name="qwen", license_link="LICENSE"))
    hub.add("model", "a/bare", carded(tags=["x"]))
    hub.add("model", "a/odd", carded(license="My <b> licence", license_link="javascript:alert(1)"))
    assert licence_of("a/free", "model", "base").metadata() == {"license": "apache-2.0"}
    assert licence_of("a/free", "dataset", "data").id == "mit"
    own = licence_of("a/own", "model", "base")
    link = "https://huggingface.co/a/own/blob/main/LICENSE"
    assert own.metadata() == {"license": "other", "license_name": "qwen", "license_link": link}
    odd = licence_of("a/odd", "model", "base")
    assert odd.metadata()["license"] == "other"
    assert card_errors(card(odd.metadata(), licence_lines([odd])), "model") == []
    assert "<b>" not in "".join(licence_lines([odd]))
    assert "](javascript" not in "".join(licence_lines([odd]))
    bare, missing = licence_of("a/bare", "model", "base"), licence_of("a/gone", "model", "base")
    assert (str(bare), bare.is_there) == ("base: licence unknown (its card names none)", True)
    assert (missing.id, missing.is_there, "404" in missing.reason) == (None, False, True)
    assert missing.metadata() == {"license": "unknown"}


def test_a_busy_hub_does_not_mean_that_the_base_is_not_there(hub: FakeHub) -> None:
    hub.add("model", "a/free", carded(license="mit"))
    hub.faults = [Fault("GET /api/models/a/free", 503)]
    found = licence_of("a/free", "model", "base")
    assert (found.id, found.is_there) == (None, True)


def test_a_licence_that_cannot_be_asked_for_is_unknown(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert str(licence_of("a/free", "model", "base")).startswith("base: licence unknown (HF_HUB_OFFLINE is set")
    assert hub.requests == []


# --- Cards ---


def test_text_cannot_break_out_of_a_card() -> None:
    hostile = "<script>alert(1)</script> | [x](http://evil) `a` **b**\n---\nlicense: mit"
    line = escaped(hostile)
    assert "\n" not in line
    assert not [sign for sign in ("<", " [", " | ", " *", " `") if sign in line]
    block = fenced(["lightr sample --cue '```", "<b>'"])
    assert (block[0], block[-1]) == ("````", "````")
    text = card({"pretty_name": hostile, "license": Licence("x").metadata()["license"]}, ["# card"])
    assert text.count("\n---\n") == 1


# --- Downloads ---


MODEL = {"config.json": b'{"model_type": "qwen2"}', "model.safetensors": b"weights" * 5000, "README.md": b"# card"}


@pytest.fixture
def model(hub: FakeHub) -> Iterator[FakeHub]:
    """Two commits of a private model, of which the first is tagged."""
    found = hub.add("model", "ann/base", MODEL, private=True)
    found.tags["v1"] = found.head
    newer = {**MODEL, "model.safetensors": b"other weights" * 5000}
    found.commit(newer, "second")
    hub.stored[sha256(newer["model.safetensors"])] = newer["model.safetensors"]
    _download.cache_clear()
    yield hub
    _download.cache_clear()


def test_a_model_is_downloaded_at_the_commit_of_its_revision(model: FakeHub) -> None:
    found = model.model("ann/base")
    first, second = list(found.commits)
    for revision, commit in (("v1", first), (first, first), (None, second)):
        source = find_model("ann/base", revision)
        assert source.commit == commit
        assert (source.folder / "model.safetensors").read_bytes() == found.commits[commit]["model.safetensors"]
    assert not (source.folder / "README.md").exists()
    outside = model.asked("GET /cdn/")
    assert [one.token for one in outside] == [None, None], "storage outside the Hub must not see the token"
    assert all(one.host.startswith("localhost") for one in outside)


@pytest.mark.parametrize(("status", "after"), [(None, 7000), (503, 0)])
def test_a_cut_download_goes_on_where_it_was(
    model: FakeHub, status: int | None, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    model.faults = [Fault("GET /cdn/", status, after=after)]
    source = find_model("ann/base", "v1")
    assert (source.folder / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    assert model.faults[0].times == 0
    assert model.asked("GET /cdn/")[-1].status == (206 if after else 200), "a part, where a part had arrived"


@pytest.mark.parametrize("revision", ["v1", None])
def test_what_was_downloaded_once_is_found_without_a_hub(
    revision: str | None, model: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    online, shape = find_model("ann/base", revision), read_config("ann/base", revision)
    _download.cache_clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = len(model.requests)
    assert find_model("ann/base", revision).files() == online.files()
    assert read_config("ann/base", revision) == shape
    assert len(model.requests) == before


def test_a_hub_that_stays_busy_counts_as_unreachable(model: FakeHub) -> None:
    model.faults = [Fault("GET /api/models/", 503, times=1000)]
    with pytest.raises(HubUnreachable, match=r"the Hub does not answer \(.*503"):
        find_model("ann/base", "v1")
    assert len(model.requests) > 2


def test_a_model_that_the_token_may_not_see_is_refused(model: FakeHub, tmp_path: Path) -> None:
    with (
        used(model, tmp_path / "other", OF_ANOTHER),
        pytest.raises(LightReasonerError, match="the Hub refuses ann/base"),
    ):
        find_model("ann/base", "v1")


def test_what_was_pushed_is_pulled(hub: FakeHub, tmp_path: Path) -> None:
    push()
    folder = Path(snapshot_download("ann/toy", revision="run-1"))
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".gitattributes"} == content(
        FILES
    )
