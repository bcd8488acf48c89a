"""Damaged shards are named, set aside and redone; damaged adapters and manifests are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from .harness import assert_same_rows, assert_same_samples, commits, contents, count, refused, succeed
from .test_kills import assert_same_adapter


def one_byte_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def one_bit_flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = [one_byte_short, one_bit_flipped, empty, Path.unlink]


@pytest.mark.parametrize(
    ("damage", "shard"),
    list(zip(DAMAGES, ["rollouts-00004.parquet", "steps-00007.parquet"] * 2, strict=True)),
)
def test_only_the_questions_of_a_damaged_shard_are_redone(
    damage: Callable[[Path], None], shard: str, sampling: tuple[object, ...], sampled: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(sampled, out)
    before = contents(out)
    damage(out / "sample" / shard)
    count(faults=1)
    again = succeed(*sampling, out)
    assert f"{out / 'sample' / shard}: missing or damaged; set aside, its items are done again" in again.error
    after = contents(out)
    number = shard[-13:-8]
    new = {name for name in after if "00012" in name}
    assert {name: after[name] for name in before if number not in name and name.endswith("parquet")} == {
        name: before[name] for name in before if number not in name and name.endswith("parquet")
    }
    assert len(new) == 2  # one commit: the questions of the damaged one
    assert len(list((out / "sample").glob("*.quarantined"))) == (1 if damage is Path.unlink else 2)
    assert_same_samples(out, sampled)


@pytest.mark.parametrize("left", [50, -1])
def test_only_the_questions_of_a_torn_ledger_line_are_redone(
    left: int, sampling: tuple[object, ...], sampled: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(sampled, out)
    ledger = out / "sample/ledger.jsonl"
    *whole, last = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join(whole) + last[:left])
    count(faults=1)
    again = succeed(*sampling, out)
    assert f"{ledger}, line 12: torn by an earlier stop" in again.error
    assert commits(out / "sample")[:11] == whole
    assert_same_samples(out, sampled)


@pytest.mark.parametrize(("old", "new"), [('"shard": 3', '"shard": 7'), ('"questions": 4', '"questions": 6')])
def test_only_the_questions_of_a_changed_ledger_line_are_redone(
    old: str, new: str, sampling: tuple[object, ...], sampled: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(sampled, out)
    ledger = out / "sample/ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    assert old in lines[3]
    ledger.write_text("".join([*lines[:3], lines[3].replace(old, new), *lines[4:]]))
    count(faults=1)
    assert f"{ledger}, line 4: torn by an earlier stop, or damaged" in succeed(*sampling, out).error
    assert_same_samples(out, sampled)


@pytest.mark.parametrize("damage", DAMAGES[:2])
def test_damaged_answers_are_regenerated_and_judged_again(
    damage: Callable[[Path], None], evaluating: tuple[object, ...], evaluated: Path, tmp_path: Path
) -> None:
    out, place = tmp_path / "run", Path("chat/arithmetic")
    shutil.copytree(evaluated, out)
    damage(out / place / "answers/answers-00003.parquet")
    count(faults=1)
    assert "answers-00003.parquet: missing or damaged" in succeed(*evaluating, out).error
    assert_same_rows(out / place / "answers", evaluated / place / "answers", "answers", ("question_id",))
    verdicts = place / "math-verify"
    assert_same_rows(out / verdicts, evaluated / verdicts, "verdicts", ("question_id", "sample"))
    count(survived=1)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_adapter_is_refused_and_not_replaced(
    damage: Callable[[Path], None], tuning: tuple[object, ...], tuned: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(tuned, out)
    weights = out / "finetune/adapter/adapter_model.safetensors"
    damage(weights)
    count(faults=1)
    before = contents(out)
    assert f"{weights} is not the file that fine-tuning wrote" in refused(*tuning, out)
    line = refused("merge", "--model", tuning[2], "--adapter", out, "--out", tmp_path / "merged")
    assert "is not the file that fine-tuning wrote" in line or "no adapter_model.safetensors" in line
    assert not (tmp_path / "merged").exists()
    assert contents(out) == before
    count(survived=1)


@pytest.mark.parametrize("given", ["", "finetune/adapter"])
def test_an_adapter_with_other_settings_is_not_merged(
    given: str, tuning: tuple[object, ...], tuned: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(tuned, out)
    settings = out / "finetune/adapter/adapter_config.json"
    settings.write_text(settings.read_text().replace('"lora_alpha": 16', '"lora_alpha": 17'))
    assert '"lora_alpha": 17' in settings.read_text()
    count(faults=1)
    line = refused("merge", "--model", tuning[2], "--adapter", out / given, "--out", tmp_path / "merged")
    assert f"{settings} is not the file that fine-tuning wrote" in line
    assert not (tmp_path / "merged").exists()
    count(survived=1)


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "optimizer.pt", "trainer_state.json", "complete.json", "[]", "{}"]
)
def test_a_damaged_checkpoint_is_named_and_the_previous_one_is_used(
    name: str, tuning: tuple[object, ...], tuned: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(tuned, out)
    shutil.rmtree(out / "finetune/adapter")
    (out / "finetune/result.json").unlink()
    checkpoint = out / "finetune/checkpoint-12"
    if name in ("[]", "{}"):
        (checkpoint / "complete.json").write_text(name)
    else:
        (empty if name == "complete.json" else one_bit_flipped)(checkpoint / name)
    count(faults=1)
    assert f"{out / 'finetune/checkpoint-12'}: torn by an earlier stop, or damaged" in succeed(*tuning, out).error
    assert_same_adapter(out, tuned)


def test_a_damaged_manifest_is_refused_by_name(sampling: tuple[object, ...], sampled: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(sampled, out)
    manifest = out / "sample/manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-3])
    count(faults=1)
    assert f"{manifest} is missing or unreadable" in refused(*sampling, out)
    count(survived=1)


def test_damaged_samples_are_refused_for_training(tuning: tuple[object, ...], sampled: Path, tmp_path: Path) -> None:
    samples = tmp_path / "samples"
    shutil.copytree(sampled, samples)
    one_bit_flipped(samples / "sample/steps-00002.parquet")
    count(faults=1)
    arguments = [*tuning[:-1]]
    arguments[arguments.index("--data") + 1] = samples
    line = refused(*arguments, "--out", tmp_path / "run")
    assert "steps-00002.parquet: missing or damaged" in line
    assert "Run the command that made" in line
    count(survived=1)


def test_a_ledger_cannot_name_files_outside_its_folder(
    sampling: tuple[object, ...], sampled: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(sampled, out)
    ledger = out / "sample/ledger.jsonl"
    first, *others = ledger.read_text().splitlines(keepends=True)
    entry = json.loads(first)
    entry["files"] = {f"../../{name}": facts for name, facts in entry["files"].items()}
    ledger.write_text("".join([json.dumps(entry) + "\n", *others]))
    count(faults=1)
    assert f"{ledger}, line 1: torn" in succeed(*sampling, out).error
    assert_same_samples(out, sampled)
