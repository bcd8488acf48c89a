"""Hostile templates, recipes, names, archives and texts."""

import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lightreasoner.errors import SampleFormatError
from lightreasoner.runs.terminal import visible
from lightreasoner.samples import archives
from lightreasoner.samples.jsonl import import_samples

from .harness import commits, contents, count, lightr, refused, succeed
from .test_fingerprints import changed

INNER = "{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}"
LOOP = "{% for a in range(99999) %}" + INNER + "{% endfor %}"
TEMPLATES = {
    "an endless loop": (LOOP, "did not finish within 5 s"),
    "one long multiplication": ("{{ 9 ** (9 ** 9) }}", "did not finish within 5 s"),
    "all memory": ("{{ 'x' * 10 ** 11 }}", "MemoryError"),
    "a long text": ("{{ 'x' * 10 ** 7 }}", "more than 1048576"),
    "Python's insides": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
    "a file": ("{% include '/etc/passwd' %}", "no loader"),
    "another question": ("{{ messages[-1].content | upper }}", "0 times"),
    "a changed question": ("{{ messages[-1].content | replace('é', 'e') }}", "changes the question"),
}


SAME = ("one long multiplication", "a changed question", "a long text")  # as others in what stops them


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if kind in SAME else kind for kind in TEMPLATES]
)
def test_a_hostile_chat_template_is_stopped(kind: str, sampling: tuple[object, ...], tmp_path: Path) -> None:
    source, complaint = TEMPLATES[kind]
    file = tmp_path / "template.jinja"
    file.write_text(source + ("" if "messages" in source else "{{ messages[-1].content }}"))
    assert complaint in refused(*changed(sampling, chat_template=file), tmp_path / "run", code=2)
    assert not (tmp_path / "run").exists()


RECIPES: dict[str, bytes] = {
    "a Python tag": b"expert: !!python/object/apply:os.system ['touch CANARY']\n",
    "an alias bomb": b"a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "a large file": b"expert: x\n" + b"# " + b"x" * (1 << 20),
    "a deep file": b"[" * 20_000,
    "no UTF-8": b"\xff\xfe\x00",
    "two documents": b"expert: a\n---\nexpert: b\n",
    "a NUL in a name": b'expert: miniature/expert\namateur: miniature/base\ndataset: arithmetic\nout: "a\\0b"\n',
    "a long name": b"expert: miniature/expert\namateur: miniature/base\ndataset: arithmetic\nout: " + b"x" * 5000,
}


@pytest.mark.parametrize("kind", RECIPES)
def test_a_hostile_recipe_is_refused(kind: str, tmp_path: Path) -> None:
    canary, recipe = tmp_path / "canary", tmp_path / "recipe.yaml"
    recipe.write_bytes(RECIPES[kind].replace(b"CANARY", str(canary).encode()))
    ended = lightr("run", "--config", recipe)
    assert ended.code in (1, 2)
    assert ended.last_line.startswith("lightr: ")
    assert not canary.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]
    count(bad_inputs=1)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "x\n", "..", "."])
def test_recipe_names_cannot_name_other_files(name: str, tmp_path: Path) -> None:
    for arguments in (("recipes", "show", name), ("run", "--config", name)):
        assert "no recipe" in refused(*arguments, code=2)
    assert "no recipe" in refused("recipes", "copy", name, tmp_path / "copy.yaml", code=2)
    assert not list(tmp_path.iterdir())


def test_names_of_data_that_are_paths_are_files_of_the_user_and_nothing_else(
    evaluating: tuple[object, ...], sampling: tuple[object, ...], tmp_path: Path
) -> None:
    assert "no file ../x" in refused(*changed(evaluating, benchmarks="../x"), tmp_path / "run")
    assert "no file" in refused(*changed(sampling, dataset="../x", data_dir=tmp_path), tmp_path / "run")


def test_a_linked_run_folder_is_followed_and_an_impossible_one_is_refused(
    sampling: tuple[object, ...], tmp_path: Path
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    few = changed(sampling, max_questions=4)
    succeed(*few, tmp_path / "link")
    assert commits(tmp_path / "real/sample")
    (tmp_path / "file").touch()
    assert "cannot make the run folder" in refused(*few, tmp_path / "file/run")
    (tmp_path / "loop").symlink_to("loop")
    assert refused(*few, tmp_path / "loop")


# Archives


@pytest.fixture(scope="module")
def lines(sampled: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("lines") / "samples.jsonl"
    succeed("samples", "export", sampled, file)
    return file.read_bytes()


def zipped(file: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file


def test_samples_are_read_from_an_archive(lines: bytes, random_expert: Path, tmp_path: Path) -> None:
    archive = zipped(
        tmp_path / "s.zip", {"LR/one.jsonl": lines, "LR/two.jsonl": lines[:100], "__MACOSX/._one.txt": b""}
    )
    line = refused("samples", "import", archive, tmp_path / "in", "--expert", random_expert)
    assert "2 files that end in .jsonl" in line
    assert "--member" in line
    arguments = ("samples", "import", archive, tmp_path / "in", "--expert", random_expert, "--member")
    assert "two.jsonl, line 1: not JSON" in refused(*arguments, "LR/two.jsonl")
    found = succeed(*arguments, "LR/one.jsonl", "--json")
    assert json.loads(found.out)["rows"] == len(lines.splitlines())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "s.zip"]


def link(archive: zipfile.ZipFile, lines: bytes) -> None:
    info = zipfile.ZipInfo("link.jsonl")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(info, "/etc/passwd")


def many(archive: zipfile.ZipFile, lines: bytes) -> None:
    for number in range(archives.MOST_MEMBERS + 1):
        archive.writestr(f"{number}.txt", b"")


def bomb(archive: zipfile.ZipFile, lines: bytes) -> None:
    with archive.open("s.jsonl", "w") as member:
        for _ in range(64):
            member.write(b" " * (1 << 20))


def slip(name: str) -> Callable[[zipfile.ZipFile, bytes], None]:
    return lambda archive, lines: archive.writestr(name, lines)


HOSTILE = {
    "a file above": (slip("../escape.jsonl"), "leads out of the folder"),
    "an absolute name": (slip("/tmp/escape.jsonl"), "leads out of the folder"),
    "a Windows name": (slip("..\\escape.jsonl"), "leads out of the folder"),
    "a drive": (slip("C:escape.jsonl"), "leads out of the folder"),
    "a link": (link, "is a link"),
    "too many files": (many, "holds 1002 files"),
    "a bomb": (bomb, "and unpacks to"),
    "an empty file": (slip("readme.md"), None),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing(
    kind: str, lines: bytes, random_expert: Path, tmp_path: Path
) -> None:
    make, complaint = HOSTILE[kind]
    file, folder = tmp_path / "s.zip", tmp_path / "new"
    folder.mkdir()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        if kind != "a bomb":
            archive.writestr("samples.jsonl", lines if complaint else b"")
        make(archive, lines)
    line = refused("samples", "import", file, folder / "in", "--expert", random_expert)
    assert (complaint or "the file is empty") in line
    assert list(folder.iterdir()) == []
    assert not (tmp_path / "escape.jsonl").exists()


def test_a_torn_archive_or_one_with_false_sizes_is_refused(
    lines: bytes, random_expert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = zipped(tmp_path / "s.zip", {"s.jsonl": lines}).read_bytes()
    for cut in (10, len(whole) // 2, len(whole) - 30):
        (tmp_path / "torn.zip").write_bytes(whole[:cut])
        assert "no sound .zip" in refused(
            "samples", "import", tmp_path / "torn.zip", tmp_path / "in", "--expert", "miniature/expert"
        )
    monkeypatch.setattr(archives, "LARGEST", 1000)
    with pytest.raises(SampleFormatError, match="unpacks to"):
        import_samples(tmp_path / "s.zip", tmp_path / "in", expert=str(random_expert))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.zip", "torn.zip"]


# The terminal

ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\u202eabc"


def test_control_characters_are_escaped() -> None:
    shown = visible(ESCAPES)
    assert shown == "\\u001b[2J\\u001b]0;owned\\u0007\\u009b31m\\u000d\\u202eabc"
    assert visible("a\tb\nc é 三 👩‍👩‍👧") == "a\tb\nc é 三 👩‍👩‍👧"
    assert json.loads(visible(json.dumps({"x": ESCAPES}, ensure_ascii=False))) == {"x": ESCAPES}


@pytest.mark.parametrize(
    "question", [ESCAPES + "?", "<script>alert(1)</script>", "</script><img src=x onerror=alert(1)>"]
)
def test_no_output_contains_control_characters_from_data(
    question: str, sampling: tuple[object, ...], tmp_path: Path
) -> None:
    data = tmp_path / f"data{ESCAPES.replace('/', '')}.jsonl"
    data.write_text(json.dumps({"question": question}) + "\n" + json.dumps({ESCAPES: ESCAPES}) + "\n")
    ended = lightr(*changed(sampling, dataset=data), tmp_path / "run")
    assert ended.code == 1
    assert "line 2: no field question" in ended.last_line
    data.write_text(json.dumps({"question": question}) + "\n")
    done = [
        succeed(*changed(sampling, dataset=data), tmp_path / "run"),
        succeed(*changed(sampling, dataset=data), tmp_path / "run", "--json"),
        lightr("recipes", "show", ESCAPES),
        lightr(*changed(sampling, dataset=data, expert=ESCAPES), tmp_path / "run"),
        lightr(*changed(sampling, dataset=data, dtype="bfloat16"), tmp_path / "run"),
        lightr("sample", "--dry-run", *changed(sampling, dataset=data)[1:], tmp_path / "run"),
    ]
    for found in [ended, *done]:
        for stream in (found.out, found.error):
            assert not [character for character in stream if ord(character) < 32 and character not in "\n\t"], stream
            assert not any(0x7F <= ord(character) < 0xA0 for character in stream)
    count(bad_inputs=len(done))
    assert contents(tmp_path / "run")
