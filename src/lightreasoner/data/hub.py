"""The Hub: names of repositories, offline mode, the commit of a branch or tag, licences, and uploads.

An upload is one commit with all files, and one tag. Files that the Hub has already, whole, are not sent again: a
repeated upload continues one that was interrupted (by file; with the package hf_xet by pieces of files). No repository
is made public that was private, and nothing is sent to a public one unasked.
"""

import fnmatch
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from lightreasoner.data.cards import HUB, TAG, Licence
from lightreasoner.errors import HubRefused, HubUnreachable, LightReasonerError
from lightreasoner.runs.files import write_atomically
from lightreasoner.runs.progress import busy, say

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")
Kind = Literal["model", "dataset"]

# Seconds until the Hub counts as unreachable. Downloads retry for half a minute before they fail; a user without a
# network should know sooner.
TIMEOUT = 4.0
STALLED = 120.0  # seconds without a byte after which an upload is tried again
ATTEMPTS, LONGEST_WAIT = 5, 16.0  # of an upload, and seconds between two of them; the client retries each request too
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
# Files of an earlier push that mean something else beside those of this one: weights in other parts, an adapter beside
# a whole model, figures of another evaluation.
REPLACED = (
    *("*.safetensors", "*.safetensors.index.json", "adapter_config.json", "config.json", "*.parquet"),
    *("ledger.jsonl", ".eval_results/*.yaml"),
)

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def is_offline() -> bool:
    """Whether the user set HF_HUB_OFFLINE, so only cached copies may be used."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def is_repository(name: str) -> bool:
    """Whether the name has the form of a Hub id, OWNER/NAME."""
    return bool(_REPOSITORY.fullmatch(name))


def model_commit(name: str, revision: str | None) -> str:
    """Commit of a model repository that a branch or tag stands for, so that later downloads read one commit.

    Raises:
        ConnectionError: HF_HUB_OFFLINE is set.
        Exception: of a client library, each its own; the Hub does not answer within `TIMEOUT`, or refuses.
    """
    from huggingface_hub import HfApi  # imports slowly, and most commands need no Hub

    if is_offline():
        raise ConnectionError("HF_HUB_OFFLINE is set")
    return str(HfApi().model_info(name, revision=revision, timeout=TIMEOUT).sha)


def download(name: str, revision: str | None, fetch: Callable[[str], T]) -> T:
    """Fetch something of a model at the commit that a branch or tag stands for, so that a later call finds it offline.

    Args:
        name: Hub id.
        revision: branch, tag or commit; None for the newest state.
        fetch: called with the commit; again where the Hub is busy.

    Raises:
        Exception: see `model_commit`.
    """
    commit = _patiently(lambda: model_commit(name, revision), name, _is_busy)
    found = _patiently(lambda: fetch(commit), name, _is_busy)
    _remember(name, revision or "main", commit)
    return found


def _remember(name: str, revision: str, commit: str) -> None:
    """Note in the client's cache what a branch or tag stood for, as the client does for what is not asked by commit."""
    from huggingface_hub import constants

    cached = Path(constants.HF_HUB_CACHE, f"models--{name.replace('/', '--')}")
    note = cached / "refs" / revision
    if revision != commit and cached.is_dir():
        with suppress(OSError):  # a cache that may only be read
            note.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(note, commit.encode())


def address(name: str, kind: Kind) -> str:
    """The web page of a repository."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{name}"


def licence_of(name: str, kind: Kind, what: str) -> Licence:
    """The licence of a repository as its card names it; unknown, with the reason, where the Hub cannot be asked.

    Args:
        name: Hub id.
        kind: of the repository.
        what: what it is, for people.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if is_offline():
        return Licence(what, reason="HF_HUB_OFFLINE is set, so its card cannot be read")
    try:
        info: Any = HfApi().repo_info(name, repo_type=kind, timeout=TIMEOUT)
    except HfHubHTTPError as error:
        status = error.response.status_code
        return Licence(what, reason=f"the Hub shows no card, status {status}", is_there=status in TRANSIENT)
    except Exception as error:  # each client library raises its own type for "no connection"
        return Licence(what, reason=f"the Hub does not answer ({type(error).__name__}), so its card cannot be read")
    repository = f"{HUB}/{'datasets/' if kind == 'dataset' else ''}{name}"
    return Licence(what).of_card(info.card_data.to_dict() if info.card_data else {}, repository)


@dataclass(frozen=True)
class Target:
    """A repository on the Hub as it is before an upload.

    Attributes:
        private: whether it is; None where there is no repository yet.
        files: names of its files.
    """

    name: str
    kind: Kind
    private: bool | None
    files: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Uploaded:
    """What an upload left on the Hub.

    Attributes:
        commit: the full hash.
        url: web page of the repository at the tag.
    """

    commit: str
    tag: str
    url: str
    private: bool


def find_target(name: str, kind: Kind, *, public: bool) -> Target:
    """Look a repository up, before anything is made or sent; answers within seconds.

    Args:
        name: OWNER/NAME.
        kind: of the repository.
        public: the user accepts that all people can read what is sent.

    Raises:
        HubUnreachable: the Hub does not answer.
        HubRefused: no token, a wrong one or one that may only read, an impossible name, a repository that is public
            unasked, or one that holds files of others.
    """
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if is_offline():
        raise HubUnreachable(f"HF_HUB_OFFLINE is set, so nothing is sent to {name}. {_WITHOUT}")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise HubRefused(f"--to {name}: {_line(error)}") from None
    with _client(TIMEOUT) as api, _explained(name):
        _check_token(api, name)
        try:
            info: Any = api.repo_info(name, repo_type=kind, timeout=TIMEOUT)
        except RepositoryNotFoundError:
            return Target(name, kind, None)
    target = Target(name, kind, bool(info.private), _names(info))
    _refuse_public(target, public)
    mine = TAG in (info.tags or []) or TAG in ((info.card_data and info.card_data.get("tags")) or [])
    if not mine and (others := sorted(target.files - {".gitattributes", "README.md"})):
        raise HubRefused(
            f"{address(name, kind)} holds {len(others)} files of another origin ({', '.join(others[:3])}), which a "
            f"push could replace. Give another name; or if they are yours, add the tag {TAG} to its card first"
        )
    return target


def upload(target: Target, files: Mapping[str, Path | bytes], *, tag: str, message: str, public: bool) -> Uploaded:
    """Send files to a repository as one commit, and tag it; makes the repository if there is none.

    A failed attempt is repeated, without the files that have arrived. Files of an earlier push that these replace
    (`REPLACED`) are removed in the same commit; all others stay.

    Args:
        target: result of `find_target`.
        files: content by name in the repository.
        tag: for this commit; one that stands for another commit is moved.
        message: of the commit.
        public: see `find_target`.

    Raises:
        HubUnreachable: the Hub does not answer, after `ATTEMPTS`.
        HubRefused: it does not take the files.
    """
    name, kind = target.name, target.kind

    def commit(api: "HfApi") -> Uploaded:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        if target.private is None:
            api.create_repo(name, repo_type=kind, private=not public, exist_ok=True)
        info = api.repo_info(name, repo_type=kind, timeout=STALLED)
        found = Target(name, kind, bool(info.private), _names(info))
        _refuse_public(found, public)  # it may have been made meanwhile, by another
        old = {file for file in found.files - files.keys() if any(fnmatch.fnmatch(file, one) for one in REPLACED)}
        operations = [CommitOperationDelete(file, is_folder=False) for file in sorted(old) if _is_ours(file)]
        adds = [CommitOperationAdd(file, content) for file, content in sorted(files.items())]
        made = api.create_commit(name, [*operations, *adds], repo_type=kind, commit_message=message)
        _tag(api, found, tag, made.oid)
        return Uploaded(made.oid, tag, f"{address(name, kind)}/tree/{tag}", bool(info.private))

    with busy(f"sending {len(files)} files to {name}"), _client(STALLED) as api, _explained(name):
        return _patiently(lambda: commit(api), name, _may_pass)


_WITHOUT = "Unset it where there is a network, or write the files with --save FOLDER and send them from there"
_LOGIN = "Log in with `hf auth login`, or set HF_TOKEN, with a token that may write (huggingface.co/settings/tokens)"


def _names(info: Any) -> frozenset[str]:
    return frozenset(sibling.rfilename for sibling in info.siblings or [])


def _is_ours(file: str) -> bool:
    """Whether a push writes to this place: the first level, and the folder of figures."""
    return "/" not in file or file.startswith(".eval_results/")


def _refuse_public(target: Target, public: bool) -> None:
    if target.private is False and not public:
        raise HubRefused(
            f"{address(target.name, target.kind)} is public: everybody could read what is sent. Nothing was sent. Give "
            "another name, or --public if that is meant"
        )


def _check_token(api: "HfApi", name: str) -> None:
    """Refuse a user without a token that may write, before a repository is made."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HfHubHTTPError

    if not get_token():
        raise HubRefused(f"there is no token for the Hub, so nothing can be sent to {name}. {_LOGIN}")
    try:
        user = api.whoami()
    except HfHubHTTPError as error:
        if error.response.status_code != 401:
            raise
        raise HubRefused(f"the Hub does not know the token, so nothing can be sent to {name}. {_LOGIN}") from None
    if ((user.get("auth") or {}).get("accessToken") or {}).get("role") == "read":
        raise HubRefused(f"the token of {user.get('name')} may only read, so nothing is sent to {name}. {_LOGIN}")


def _tag(api: "HfApi", target: Target, tag: str, commit: str) -> None:
    """Make a tag stand for a commit."""
    tags = {one.name: one.target_commit for one in api.list_repo_refs(target.name, repo_type=target.kind).tags}
    if tags.get(tag) == commit:
        return
    if tag in tags:
        say(f"the tag {tag} of {target.name} stood for an earlier push of this run, and is moved")
        api.delete_tag(target.name, tag=tag, repo_type=target.kind)
    api.create_tag(target.name, tag=tag, revision=commit, repo_type=target.kind, exist_ok=True)


@contextmanager
def _client(timeout: float) -> Iterator["HfApi"]:
    """The Hub's client with a limit of time, without its log: that names addresses which give access to files."""
    from huggingface_hub import HfApi, get_session

    log, session = logging.getLogger("huggingface_hub"), get_session()
    level, before = log.level, session.timeout
    log.setLevel(logging.CRITICAL)
    session.timeout = timeout
    try:
        yield HfApi(library_name="lightreasoner")
    finally:
        log.setLevel(level)
        session.timeout = before


def _patiently(attempt: Callable[[], T], name: str, may_pass: Callable[[Exception], bool]) -> T:
    """Repeat what fails for a reason that may pass."""
    for number in range(1, ATTEMPTS):
        try:
            return attempt()
        except Exception as error:
            if not may_pass(error):
                raise
            say(f"{name}: {_line(_cause(error))}; attempt {number + 1} of {ATTEMPTS} follows, what arrived stays")
            time.sleep(min(2.0 ** (number - 1), LONGEST_WAIT))
    return attempt()


def _cause(error: BaseException) -> BaseException:
    """The first error of a chain: the client wraps those of a single file."""
    while (cause := error.__cause__) is not None:
        error = cause
    return error


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    return getattr(response, "status_code", None)


def _is_busy(error: Exception) -> bool:
    return _status(error) in TRANSIENT


def _may_pass(error: Exception) -> bool:
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    status = next((found for one in chain if (found := _status(one))), None)
    if status is not None:
        return status in TRANSIENT
    return not isinstance(error, (LightReasonerError, ValueError, TypeError, KeyError, FileNotFoundError))


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Errors of the client in this package's words; none holds the token."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except LightReasonerError:
        raise
    except (HfHubHTTPError, ValueError) as error:
        status = _status(error)
        if status in TRANSIENT:
            raise HubUnreachable(_unreachable(name, f"status {status}")) from None
        owner = name.partition("/")[0]
        advice = {
            401: _LOGIN,
            403: f"The token needs the right to write to {owner}. {_LOGIN}",
            409: "Run the same command again",
            413: "Send the samples of fewer questions",
        }.get(status or 0, "Nothing that was there before has changed")
        raise HubRefused(f"the Hub refuses the push to {name}: {_line(error)}. {advice}") from None
    except Exception as error:  # each client library raises its own type for "no connection"
        raise HubUnreachable(_unreachable(name, _line(_cause(error)))) from None


def _unreachable(name: str, reason: str) -> str:
    return (
        f"the Hub does not answer, so the push to {name} is not finished ({reason}). Run the same command again: files "
        "that arrived are not sent twice; or write the files with --save FOLDER, and send them from elsewhere"
    )


def _line(error: BaseException) -> str:
    """The message of a client's error in one line, without addresses, which can hold credentials, and the token."""
    from huggingface_hub import get_token

    text = re.sub(r"https?://\S+", lambda found: found[0].partition("?")[0], str(error))
    token = get_token()
    text = text.replace(token, "…") if token else text
    parts = [line for line in (part.strip() for part in text.splitlines()) if line and "more information" not in line]
    return " ".join(parts).rstrip(".") or type(error).__name__
