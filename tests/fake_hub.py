"""A small Hub on this machine: an HTTP server with what `huggingface_hub` and `datasets` ask of the real one.

Repositories of models and data sets with commits, tags and private ones; tokens that may write, read or are unknown;
LFS with batch, upload and verification; cards checked by the rules of hub-docs; downloads with ETag, X-Repo-Commit,
ranges, and a redirect to another address, which must not see the token. Faults: a status or a cut connection for the
next requests of a kind. The requests are kept. Xet storage is not here: the client's HF_HUB_DISABLE_XET must be set.
"""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.repocard_data import model_index_to_eval_results

WRITE, READ, OF_ANOTHER = "hf_writewritewrite", "hf_readreadread", "hf_anotheranother"
USERS = {WRITE: ("ann", "write"), READ: ("ann", "read"), OF_ANOTHER: ("bob", "write")}
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
LICENCES = {"apache-2.0", "mit", "cc-by-4.0", "cc-by-sa-4.0", "gpl-3.0", "llama3.1", "gemma", "unknown", "other"}
AS_LFS = (".safetensors", ".parquet", ".bin")


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Repository:
    """Files of each commit by its hash, the newest last."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes], message: str = "") -> str:
        oid = hashlib.sha1(f"{len(self.commits)} {message} {sorted(files)}".encode()).hexdigest()
        self.commits[oid] = dict(files)
        self.messages[oid] = message
        return oid

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.head]

    def at(self, revision: str) -> str | None:
        if revision == "main":
            return self.head
        return self.tags.get(revision) or next((oid for oid in self.commits if oid == revision), None)


@dataclass
class Request:
    method: str
    path: str
    host: str
    token: str | None
    status: int
    bytes: int  # of its body


@dataclass
class Fault:
    """What happens to the next `times` requests whose "METHOD PATH" matches."""

    match: str
    status: int | None = None  # None: the connection is cut, after so many bytes of what is sent or answered
    after: int = 0
    lost: bool = False  # the request is carried out, and its answer is lost
    times: int = 1


class FakeHub:
    """The state of the server, and its address."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.stored: dict[str, bytes] = {}  # LFS
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.parts: dict[str, dict[int, bytes]] = {}
        self.chunk: int | None = None  # bytes of a part of an upload; None: in one piece
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def other_url(self) -> str:
        """The same server under another name, where the real Hub has its storage."""
        return f"http://localhost:{self.port}"

    def add(self, kind: str, name: str, files: Mapping[str, bytes], *, private: bool = False) -> Repository:
        found = self.repositories[kind, name] = Repository(private)
        found.commit({".gitattributes": b"*.safetensors filter=lfs\n", **files}, "first")
        for path, content in files.items():
            if path.endswith(AS_LFS):
                self.stored[sha256(content)] = content
        return found

    def model(self, name: str = "ann/toy") -> Repository:
        return self.repositories["model", name]

    def data(self, name: str = "ann/toy") -> Repository:
        return self.repositories["dataset", name]

    def asked(self, pattern: str) -> list[Request]:
        return [one for one in self.requests if re.search(pattern, f"{one.method} {one.path}")]

    def fault(self, line: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and re.search(fault.match, line):
                fault.times -= 1
                return fault
        return None


def card_errors(content: str, kind: str) -> list[str]:
    """What the rules of hub-docs (modelcard.md, datasetcard.md) refuse in a card."""
    block = REGEX_YAML_BLOCK.search(content)
    data = yaml.safe_load(block.group(2)) if block else None
    if not isinstance(data, dict):
        return ["empty or missing yaml metadata"]
    errors = []
    licences = data.get("license", [])
    for licence in licences if isinstance(licences, list) else [licences]:
        if licence not in LICENCES:
            errors.append(f'"license" must be one of the identifiers: {licence}')
    if data.get("license") == "other" and "license_name" not in data:
        errors.append('"license_name" is required with "license: other"')
    repository = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
    for key in ("base_model", "datasets", "source_datasets"):
        values = data.get(key, [])
        for value in values if isinstance(values, list) else [values]:
            if not repository.fullmatch(value):
                errors.append(f'"{key}" with value "{value}" is not valid. Use a model id from https://hf.co/models.')
    if data.get("base_model_relation", "adapter") not in ("adapter", "merge", "quantized", "finetune"):
        errors.append('"base_model_relation" is none of the known ones')
    if not all(isinstance(tag, str) for tag in data.get("tags", [])):
        errors.append('"tags" must be texts')
    if kind == "model" and "model-index" in data:
        model_index_to_eval_results(data["model-index"])  # raises
    for one in data.get("configs", []):
        if not {"config_name", "data_files"} <= one.keys():
            errors.append('"configs" need "config_name" and "data_files"')
    return errors


class _Stop(Exception):
    """The connection is cut."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        self.body = b""
        self.path_only = unquote(urlsplit(self.path).path)
        self.query = parse_qs(urlsplit(self.path).query)
        header = self.headers.get("Authorization", "")
        self.token = header.removeprefix("Bearer ") or None
        fault = self.hub.fault(f"{self.command} {self.path_only}")
        length = int(self.headers.get("Content-Length", 0))
        try:
            if fault is not None and fault.status is None and not fault.lost and self.command in ("PUT", "POST"):
                self.rfile.read(min(fault.after, length))
                raise _Stop
            self.body = self._read_body(length)
            self.cut_after = fault.after if fault and fault.status is None else None
            if fault is not None and fault.status is not None:
                self._answer(fault.status, {"error": "not now"})
            else:
                self._route()
        except _Stop:
            self.hub.requests.append(self._request(0, 0))
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(2)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _read_body(self, length: int) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(length)
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _request(self, status: int, sent: int) -> Request:
        return Request(self.command, self.path_only, self.headers.get("Host", ""), self.token, status, sent)

    def _answer(
        self, status: int, content: Any = None, headers: Mapping[str, str] | None = None, raw: bytes | None = None
    ) -> None:
        body = raw if raw is not None else json.dumps({} if content is None else content).encode()
        self.hub.requests.append(self._request(status, len(self.body)))
        self.send_response(status)
        given = {"Content-Length": str(len(body)), "Content-Type": "application/json", **(headers or {})}
        for name, value in given.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.cut_after is not None:
            self.wfile.write(body[: self.cut_after])
            self.wfile.flush()
            raise _Stop
        self.wfile.write(body)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._answer(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})

    def _user(self) -> tuple[str, str] | None:
        return USERS.get(self.token or "")

    def _route(self) -> None:
        if self.token is not None and self._user() is None:
            self._refuse(401, "", "Invalid credentials in Authorization header")
            return
        for method, pattern, action in ROUTES:
            if (found := re.fullmatch(pattern, self.path_only)) and self.command in method.split():
                action(self, **found.groupdict())
                return
        self._refuse(404, "", f"no {self.command} {self.path_only}")

    def _repository(self, kind: str | None, name: str, *, write: bool = False) -> Repository | None:
        """The repository, or an answer that there is none for this user."""
        found = self.hub.repositories.get(((kind or "models").rstrip("s"), name))
        owner = name.partition("/")[0]
        user = self._user()
        if found is None or (found.private and (user is None or user[0] != owner)):
            self._refuse(404, "RepoNotFound", "Repository not found")
            return None
        if write and (user is None or user != (owner, "write")):
            self._refuse(403, "", "You don't have the right to write here")
            return None
        return found

    def whoami(self) -> None:
        if (user := self._user()) is None:
            self._refuse(401, "", "Invalid username or password.")
            return
        self._answer(200, {"type": "user", "name": user[0], "orgs": [], "auth": {"accessToken": {"role": user[1]}}})

    def create(self) -> None:
        asked = json.loads(self.body)
        user = self._user()
        owner = asked["organization"] or (user and user[0])
        name, kind = f"{owner}/{asked['name']}", asked.get("type") or "model"
        if user is None or user != (owner, "write"):
            self._refuse(403, "", "You don't have the rights to create a repository under this namespace")
        elif (kind, name) in self.hub.repositories:
            self._answer(409, {"error": "You already created this repo", "url": f"{self.hub.url}/{name}"})
        else:
            private = asked.get("visibility") == "private" or bool(asked.get("private"))
            self.hub.add(kind, name, {}, private=private)
            self._answer(200, {"url": f"{self.hub.url}/{name}"})

    def info(self, kind: str, name: str, revision: str = "main") -> None:
        if (found := self._repository(kind, name)) is None:
            return
        if (oid := found.at(revision)) is None:
            self._refuse(404, "RevisionNotFound", "Invalid rev id")
            return
        files = found.commits[oid]
        block = REGEX_YAML_BLOCK.search(files.get("README.md", b"").decode())
        card = yaml.safe_load(block.group(2)) if block else None
        facts = {"id": name, "sha": oid, "private": found.private, "gated": False, "disabled": False, "downloads": 0}
        siblings = [{"rfilename": path} for path in sorted(files)]
        self._answer(200, {**facts, "siblings": siblings, "cardData": card, "tags": (card or {}).get("tags", [])})

    def _entry(self, path: str, content: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
        if path.endswith(AS_LFS):
            entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
        return entry

    def tree(self, kind: str, name: str, revision: str, folder: str | None = None) -> None:
        if (found := self._repository(kind, name)) is None:
            return
        if (oid := found.at(revision)) is None:
            self._refuse(404, "RevisionNotFound", "Invalid rev id")
            return
        entries: dict[str, dict[str, Any]] = {}
        for path, content in sorted(found.commits[oid].items()):
            below = path.removeprefix(f"{folder}/") if folder else path
            if folder and below == path:
                continue
            first, slash, _ = below.partition("/")
            if slash:
                top = f"{folder}/{first}" if folder else first
                entries.setdefault(top, {"type": "directory", "path": top, "size": 0, "oid": git_oid(top.encode())})
            if not slash or self.query.get("recursive", ["false"])[0].lower() in ("true", "1"):
                entries[path] = self._entry(path, content)
        if folder and not entries:
            self._refuse(404, "EntryNotFound", "no such folder")
            return
        self._answer(200, list(entries.values()))

    def paths(self, kind: str, name: str, revision: str) -> None:
        if (found := self._repository(kind, name)) is None:
            return
        files = found.commits[found.at(revision) or found.head]
        is_json = self.headers.get("Content-Type", "").startswith("application/json")
        asked = json.loads(self.body)["paths"] if is_json else parse_qs(self.body.decode()).get("paths", [])
        self._answer(200, [self._entry(path, files[path]) for path in asked if path in files])

    def refs(self, kind: str, name: str) -> None:
        if (found := self._repository(kind, name)) is None:
            return
        tags = [{"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": oid} for tag, oid in found.tags.items()]
        branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": found.head}
        self._answer(200, {"branches": [branch], "converts": [], "tags": tags})

    def tag(self, kind: str, name: str, revision: str) -> None:
        if (found := self._repository(kind, name, write=True)) is None:
            return
        if self.command == "DELETE":
            found.tags.pop(revision)
            self._answer(200)
            return
        tag = json.loads(self.body)["tag"]
        if tag in found.tags:
            self._refuse(409, "", "Tag reference exists already")
            return
        found.tags[tag] = found.at(revision) or found.head
        self._answer(200)

    def preupload(self, kind: str, name: str, revision: str) -> None:
        if (found := self._repository(kind, name, write=True)) is None:
            return
        answers = []
        for one in json.loads(self.body)["files"]:
            mode = "lfs" if one["path"].endswith(AS_LFS) else "regular"
            there = found.files.get(one["path"])
            oid = None if there is None else sha256(there) if mode == "lfs" else git_oid(there)
            answers.append({"path": one["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._answer(200, {"files": answers})

    def batch(self, name: str, kind: str | None = None) -> None:
        if self._repository((kind or "models/").rstrip("/"), name, write=True) is None:
            return
        objects = []
        for one in json.loads(self.body)["objects"]:
            entry: dict[str, Any] = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.hub.stored:
                upload: dict[str, Any] = {"href": f"{self.hub.other_url}/lfs/{one['oid']}?signature=sign-secret"}
                if self.hub.chunk and one["size"] > self.hub.chunk:
                    count = -(-one["size"] // self.hub.chunk)
                    places = {
                        f"{part:05d}": f"{self.hub.other_url}/part/{one['oid']}/{part}" for part in range(1, count + 1)
                    }
                    upload = {"href": f"{self.hub.url}/complete/{one['oid']}"}
                    upload["header"] = {"chunk_size": str(self.hub.chunk), **places}
                entry["actions"] = {"upload": upload, "verify": {"href": f"{self.hub.url}/verify"}}
            objects.append(entry)
        self._answer(200, {"transfer": "basic", "objects": objects})

    def store(self, oid: str) -> None:
        if sha256(self.body) != oid:
            self._answer(400, {"error": "another hash"})
            return
        self.hub.stored[oid] = self.body
        self._answer(200, {}, {"ETag": f'"{oid}"'})

    def part(self, oid: str, number: str) -> None:
        self.hub.parts.setdefault(oid, {})[int(number)] = self.body
        self._answer(200, {}, {"ETag": f'"{number}"'})

    def complete(self, oid: str) -> None:
        self.body = b"".join(content for _, content in sorted(self.hub.parts[oid].items()))
        self.store(oid)

    def verify(self) -> None:
        asked = json.loads(self.body)
        there = self.hub.stored.get(asked["oid"])
        self._answer(200 if there is not None and len(there) == asked["size"] else 404)

    def validate(self) -> None:
        asked = json.loads(self.body)
        errors = [{"message": text} for text in card_errors(asked["content"], asked["repoType"])]
        self._answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def commit(self, kind: str, name: str, revision: str) -> None:
        if (found := self._repository(kind, name, write=True)) is None:
            return
        files, message = dict(found.files), ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.hub.stored:
                    self._refuse(400, "", f"LFS pointer pointed to a file that does not exist: {value['path']}")
                    return
                files[value["path"]] = self.hub.stored[value["oid"]]
            elif item["key"] == "deletedFile" and files.pop(value["path"], None) is None:
                self._refuse(404, "EntryNotFound", "A file with this name doesn't exist")
                return
        oid = found.commit(files, message)
        self._answer(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid})

    def resolve(self, name: str, revision: str, path: str, kind: str | None = None) -> None:
        if (found := self._repository((kind or "models/").rstrip("/"), name)) is None:
            return
        if (oid := found.at(revision)) is None:
            self._refuse(404, "RevisionNotFound", "Invalid rev id")
            return
        if (content := found.commits[oid].get(path)) is None:
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        headers = {"X-Repo-Commit": oid, "Accept-Ranges": "bytes"}
        if not path.endswith(AS_LFS):
            headers |= {"ETag": f'"{git_oid(content)}"', "Content-Type": "text/plain"}
            self._answer(200, None, headers, content)
            return
        digest = sha256(content)
        headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        self._answer(302, None, {**headers, "Location": f"{self.hub.other_url}/cdn/{digest}"}, b"")

    def cdn(self, oid: str) -> None:
        content, status = self.hub.stored[oid], 200
        headers = {"ETag": f'"{oid}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        if found := re.match(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(found[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content, status = content[start:], 206
        self._answer(status, None, headers, content)


_REPO = r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)"
_PAGE = r"/(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+)"
ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", r"/api/whoami-v2", Handler.whoami),
    ("POST", r"/api/repos/create", Handler.create),
    ("POST", r"/api/validate-yaml", Handler.validate),
    ("GET", _REPO, Handler.info),
    ("GET", _REPO + r"/revision/(?P<revision>.+)", Handler.info),
    (
        "GET",
        _REPO + r"/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?",
        lambda h, folder=None, **k: h.tree(folder=folder or "", **k),
    ),
    ("POST", _REPO + r"/paths-info/(?P<revision>.+)", Handler.paths),
    ("GET", _REPO + r"/refs", Handler.refs),
    ("POST DELETE", _REPO + r"/tag/(?P<revision>.+)", Handler.tag),
    ("POST", _REPO + r"/preupload/(?P<revision>.+)", Handler.preupload),
    ("POST", _REPO + r"/commit/(?P<revision>.+)", Handler.commit),
    ("POST", r"/(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", r"/lfs/(?P<oid>\w+)", Handler.store),
    ("PUT", r"/part/(?P<oid>\w+)/(?P<number>\d+)", Handler.part),
    ("POST", r"/complete/(?P<oid>\w+)", Handler.complete),
    ("POST", r"/verify", Handler.verify),
    ("GET HEAD", _PAGE + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve),
    ("GET HEAD", r"/cdn/(?P<oid>\w+)", Handler.cdn),
]


@contextmanager
def serving() -> Iterator[FakeHub]:
    """A running server."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub, "cut_after": None}))
    server.daemon_threads = True
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def used(hub: FakeHub, home: Path, token: str | None = WRITE) -> Iterator[None]:
    """Let the clients in this process speak to the server, with a cache and a login of their own, and without waiting.

    The constants are those that HF_ENDPOINT, HF_HOME, HF_HUB_DISABLE_XET and HF_HUB_OFFLINE set in a new process.
    """
    import datasets
    from huggingface_hub import close_session, constants
    from huggingface_hub.utils import _http

    impatient = SimpleNamespace(sleep=lambda seconds: None, time=time.time, monotonic=time.monotonic)
    with pytest.MonkeyPatch.context() as patch:
        for name in PROXIES:
            patch.delenv(name, raising=False)
        patch.setenv("HF_HUB_OFFLINE", "0")
        patch.setenv("HF_TOKEN", token or "")
        for name, value in {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
        }.items():
            patch.setattr(constants, name, value)
        patch.setattr(_http, "time", impatient)
        patch.setattr("lightreasoner.data.hub.time", impatient)
        patch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", False, raising=False)
        close_session()
        try:
            yield
        finally:
            close_session()


_ENTERED: list[Any] = []


def enter(port: int, home: Path, token: str | None = WRITE) -> None:
    """`used` for the rest of a process that was forked: a patch for `faults.harness.start`."""
    hub = FakeHub()
    hub.port = port
    context = used(hub, home, token)
    _ENTERED.append(context)  # a context that is collected is left
    context.__enter__()
