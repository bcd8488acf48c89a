"""What differs between what a folder was made with and what is asked for now, in words.

Hashes are compared and never shown: a difference names the file or the input whose content changed.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

HASH = re.compile(r"[0-9a-f]{64}")
OF_FILES = "_files"  # `expert_files` holds the hashes of the expert's files by name

# Names that are no settings, in words. {…} is another value at the same place.
WORDS = {
    "answers": "the answers that were judged",
    "behind_answer": "the chat template's text behind an answer",
    "file_sha256": "the imported file",
    "imported_from.sha256": "the imported file",
    "hints_sha256": "the hints",
    "items_sha256": "the items of {benchmark}",
    "labels_sha256": "the labels in the samples",
    "prompt_text": "the prompt",
    "prompt_tokens": "the prompt's tokens",
    "problems_sha256": "the problems and solutions of {dataset}",
    "questions_sha256": "the questions of {dataset}",
    "samples_sha256": "the samples that are selected from",
    "stop_tokens": "stop tokens",
}


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """One clause for each value that differs, such as `seed: 42 there, 7 now`; nested values by dotted name."""
    there, now = flat(found), flat(wanted)
    names = [name for name in {**there, **now} if there.get(name) != now.get(name)]
    # The hash of all files says no more than those of the files, and the tokens of a prompt no more than its text.
    said = {f"{name.partition(f'{OF_FILES}.')[0]}_sha256" for name in names}
    said |= {name.replace("prompt_text", "prompt_tokens") for name in names if name.endswith("prompt_text")}
    return [_clause(name, there, now) for name in names if name not in said]


def keeping_precision(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What takes the precision of a folder, for the end of a message; empty if the precisions agree."""
    there, now = flat(found), flat(wanted)
    name = next((name for name in there if name.rpartition(".")[2] == "dtype"), "")
    if not there.get(name) or there[name] == now.get(name):
        return ""
    return f". --dtype {there[name]} takes the precision of the folder; auto picks by the machine"


def changed_files(owner: str, found: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """The files of a model that differ, such as `model.safetensors of the expert: other content now`."""
    return "; ".join(differences({f"{owner}{OF_FILES}": found}, {f"{owner}{OF_FILES}": wanted}))


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted name."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _clause(name: str, there: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    before, after = there.get(name), now.get(name)
    hashed = any(isinstance(value, str) and HASH.fullmatch(value) for value in (before, after))
    if hashed or name.endswith("_sha256"):
        what = "other content now" if before and after else "not there now" if before else "not there then"
        return f"{_subject(name, there)}: {what}"
    return f"{_subject(name, there)}: {_both(before, after)}"


def _subject(name: str, values: Mapping[str, Any]) -> str:
    """A dotted name in words; that of a setting stays."""
    owner, is_file, file = name.partition(f"{OF_FILES}.")
    if is_file:
        return f"{file} of the {owner.rpartition('.')[2].replace('_', ' ')}"
    known = next((key for key in WORDS if name == key or name.endswith(f".{key}")), None)
    if known is None:
        plain = name.removesuffix("_sha256")
        return plain if plain == name else plain.replace("_", " ")
    place = name.removesuffix(known)
    named = {key.removeprefix(place): value for key, value in values.items() if key.startswith(place)}
    return WORDS[known].format_map({"benchmark": "the benchmark", "dataset": "the data set", **named})


def _both(found: Any, wanted: Any) -> str:
    """Two values that differ, long ones from shortly before their first difference."""
    there, now = _text(found), _text(wanted)
    same = next((place for place, pair in enumerate(zip(there, now, strict=False)) if pair[0] != pair[1]), None)
    start = max(0, (min(len(there), len(now)) if same is None else same) - 20)
    return f"{_excerpt(there, start)} there, {_excerpt(now, start)} now"


def _text(value: Any) -> str:
    """A list of texts as its items; other values as JSON."""
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return json.dumps(value, ensure_ascii=False)


def _excerpt(text: str, start: int) -> str:
    if len(text) <= 80:
        return text
    return f"{'…' * (start > 0)}{text[start : start + 80]}{'…' * (len(text) > start + 80)}"
