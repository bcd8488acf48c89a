"""`lightr push`: send adapter, merged model or samples of a run to the Hub, with cards.

Before anything is sent, the size, the licences and who will be able to read it are printed, and the user is asked. What
is sent holds no path of this machine: cards and the settings in JSON files name folders and files by their last part.
Weights, tokenizer and Parquet files are sent as they are.

    model repository              data set repository
      README.md                     README.md                 card; `configs` for rollouts and labels
      .eval_results/*.yaml          rollouts-*.parquet        shards, as in RUN/sample
      adapter_config.json           steps-*.parquet
      adapter_model.safetensors     manifest.json             the stage, so that `lightr finetune --data` reads a copy
        or the files of RUN/merged  ledger.jsonl, result.json
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightreasoner.config import PushConfig, RunConfig
from lightreasoner.data import hub
from lightreasoner.errors import ConfigError, DataError
from lightreasoner.push.parts import Part, part_of
from lightreasoner.runs.environment import now
from lightreasoner.runs.files import new_folder, write_json
from lightreasoner.runs.progress import say, warn
from lightreasoner.runs.records import PUSHED
from lightreasoner.runs.terminal import size


def push(config: PushConfig) -> dict[str, Any]:
    """Send adapter, merged model or samples of a run to the Hub, private by default, with cards.

    Returns:
        For each kind: `to`, `url`, `commit`, `tag`, `private`, `files` and `bytes`; or `folder` instead of where it is.

    Raises:
        ConfigError: nobody can be asked, or the answer is no.
        DataError: there is nothing of this kind, or the folder to save it in exists.
        RunCorrupted: it is unfinished or damaged.
        HubRefused: no token, a wrong one, or a repository that nothing may be sent to; see `data.hub`.
        HubUnreachable: the Hub does not answer.
    """
    parts = [part_of(what, config) for what in dict.fromkeys(config.what)]
    if config.save is not None:
        return {part.what: _save(part, config.save / part.what) for part in parts}
    targets = [hub.find_target(config.to, part.kind, public=config.public) for part in parts]
    for part, target in zip(parts, targets, strict=True):
        _say_plan(part, target, config)
    _ask(config, parts)
    results: dict[str, Any] = {}
    for part, target in zip(parts, targets, strict=True):
        message = f"Push of {config.run.resolve().name}: {part.words}"
        sent = hub.upload(target, part.files, tag=_tag(part, config), message=message, public=config.public)
        results[part.what] = {
            "to": config.to,
            "kind": part.kind,
            "url": sent.url,
            "commit": sent.commit,
            "tag": sent.tag,
            "private": sent.private,
            "files": len(part.files),
            "bytes": part.bytes,
        }
        _record(config.run, {"what": part.what, "at": now(), **results[part.what]})
    return results


def outline(config: PushConfig) -> None:
    """Say what would be sent; nothing is made on the Hub.

    Raises:
        LightReasonerError: see `push`.
    """
    for part in [part_of(what, config) for what in dict.fromkeys(config.what)]:
        _say_plan(part, None, config)
        for name in sorted(part.files):
            say(f"  {name}")


def check_push(config: RunConfig) -> None:
    """Check before a run that its result can be pushed: a repository, a token, and somebody to ask.

    Raises:
        ConfigError: nobody can be asked.
        HubRefused, HubUnreachable: see `data.hub.find_target`.
    """
    if config.push_to is None:
        return
    if not config.push.yes and not _is_somebody_there():
        raise ConfigError(
            f"--push-to {config.push_to}: size and licence must be confirmed, and there is no terminal to ask at when "
            "the run ends. Add --push.yes, or push later with `lightr push`"
        )
    kinds: dict[hub.Kind, None] = {"dataset" if what == "samples" else "model": None for what in config.push.what}
    for kind in kinds:
        hub.find_target(config.push_to, kind, public=config.push.public)


def push_lines(result: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The result as lines for people."""
    return [
        f"{what}: {one['files']} files, {size(one['bytes'])}, "
        + (one["folder"] if "folder" in one else f"{'private' if one['private'] else 'public'}, {one['url']}")
        for what, one in result.items()
    ]


def _say_plan(part: Part, target: hub.Target | None, config: PushConfig) -> None:
    """Size, visibility and licences of a part."""
    readers = "private" if not config.public else "public: everybody can read it"
    if target is not None and target.private is not None:
        readers = "there already, private" if target.private else "there already, public: everybody can read it"
    elif target is not None:
        readers = f"new, {readers}"
    say(f"{part.words}: {len(part.files)} files, {size(part.bytes)}, tag {_tag(part, config)}")
    say(f"  to {hub.address(config.to, part.kind)} ({part.kind}; {readers})")
    for place, licence in enumerate(part.licences):
        say(f"  {'licence' if not place else 'also'}: {licence}")
        if licence.id is None and not place:
            warn(
                f"the licence is unknown, and the card says so. Look whether {licence.of} may be passed on, and name "
                "the licence with --license"
            )


def _ask(config: PushConfig, parts: Sequence[Part]) -> None:
    """Ask whether that may be sent.

    Raises:
        ConfigError: no, or there is no terminal to ask at.
    """
    if config.yes:
        return
    if not _is_somebody_there():
        raise ConfigError(
            "size and licence above must be confirmed, and there is no terminal to ask at: nothing was sent. Add --yes"
        )
    print(f"Send {size(sum(part.bytes for part in parts))} to {config.to}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ConfigError("nothing was sent")


def _is_somebody_there() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr is not None and sys.stderr.isatty()


def _tag(part: Part, config: PushConfig) -> str:
    """A name for this content of this run; the same command makes the same one."""
    if config.tag is not None:
        return config.tag if len({*config.what}) == 1 else f"{config.tag}-{part.what}"
    name = re.sub(r"[^\w.-]+", "-", config.run.resolve().name, flags=re.ASCII).strip("-.")[:60]
    return f"{name or 'run'}-{part.sha256[:8]}"


def _save(part: Part, folder: Path) -> dict[str, Any]:
    """Write what would be sent into a folder."""
    if folder.exists():
        raise DataError(f"{folder} exists already, and is not overwritten. Remove it, or give another --save")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder, part.bytes) as new:
        for name, content in part.files.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                _copy(content, new / name)
            else:
                (new / name).write_bytes(content)
    return {"folder": str(folder), "files": len(part.files), "bytes": part.bytes}


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as old, target.open("wb") as new:
        while block := old.read(1 << 20):
            new.write(block)


def _record(run: Path, entry: dict[str, Any]) -> None:
    """Write down what was sent, for the report."""
    file = run / PUSHED
    try:
        earlier = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
        kept = [
            one for one in earlier if (one["what"], one["to"], one["tag"]) != (entry["what"], entry["to"], entry["tag"])
        ]
        write_json(file, [*kept, entry])
    except (OSError, ValueError, LookupError, TypeError) as error:
        warn(f"{file} cannot be written ({error}); the files are on the Hub all the same")
