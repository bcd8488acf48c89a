"""Our benchmarks as tasks of lm-evaluation-harness: items, prompts, answers and verdicts of `lightr evaluate`."""

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer

import lightreasoner
from lightreasoner.cli import app
from lightreasoner.config.sections import DEFAULT_CUE
from lightreasoner.data.benchmarks import BENCHMARKS, PAPER_SET, Benchmark, load_benchmark
from lightreasoner.data.generated import GENERATORS
from lightreasoner.errors import ConfigError
from lightreasoner.evaluation.evaluate import evaluate
from lightreasoner.miniature import model_path
from lightreasoner.models.prompts import END_MARKS, PromptTemplate

from .helpers import answers, config_for, verdicts

pytest.importorskip("lm_eval", reason="lm-eval is not installed; the extra lm-eval has it")

TASKS = Path(lightreasoner.__file__).parent / "evaluation" / "lm_eval_tasks"
ITEMS = 12
TOKENS = 64


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A --data-dir in which gsm8k has problems that the miniature can solve."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "gsm8k").mkdir()
    lines = [
        json.dumps({"question": problem.question, "answer": f"See.\n#### {problem.answer}"})
        for problem in GENERATORS["arithmetic"].distinct("test", 0, ITEMS)
    ]
    (folder / "gsm8k" / "test.jsonl").write_text("\n".join(lines))
    return folder


def manager(data_dir: Path) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(TASKS), include_defaults=False, metadata={"data_dir": str(data_dir)})


def asked_by_lm_eval(folder: Path, data_dir: Path, **settings: Any) -> dict[str, Any]:
    from lm_eval import simple_evaluate

    common = {"tasks": ["lightreasoner_gsm8k"], "batch_size": 4, "bootstrap_iters": 0, "device": "cpu"}
    arguments = {"pretrained": str(folder), "dtype": "float32"}
    gen = {"gen_kwargs": f"max_gen_toks={TOKENS}", "task_manager": manager(data_dir)}
    return dict(simple_evaluate("hf", arguments, **{**common, **gen, **settings}))


def rows_of(samples: list[dict[str, Any]], name: str) -> Iterator[dict[str, Any]]:
    return (row for row in samples if row["filter"] == name)


def compared(
    samples: list[dict[str, Any]], out: Path, kind: str, folder: Path, judge: str = "math-verify"
) -> list[str]:
    """Check that items, prompt ids and answers agree; the ids of the items whose verdicts differ."""
    ours, judged = answers(out, f"{kind}/gsm8k"), verdicts(out, f"{kind}/gsm8k", judge)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = list(rows_of(samples, judge))
    assert [(row["doc"]["id"], 0) for row in rows] == sorted(ours)
    different = []
    for row in rows:
        answer = ours[row["doc"]["id"], 0]
        (prompt, _), (text,) = row["arguments"][0], row["resps"][0]
        assert tokenizer(prompt, add_special_tokens=kind == "plain")["input_ids"] == answer.prompt_ids
        assert (row["doc"]["question"], row["target"]) == (answer.question, answer.gold)
        assert text == answer.output
        found = judged[row["doc"]["id"], 0]
        assert row["filtered_resps"] == [found.extracted or ""]
        if row["acc"] != (found.verdict == "correct"):
            different.append(row["doc"]["id"])
    return different


@pytest.mark.parametrize("kind", ["chat", pytest.param("plain", marks=pytest.mark.slow)])
def test_lm_eval_asks_and_judges_as_we_do(kind: str, problems: Path, tmp_path: Path) -> None:
    folder = model_path("expert")
    found = asked_by_lm_eval(folder, problems, apply_chat_template=kind == "chat")
    config = config_for(tmp_path, benchmarks=("gsm8k",), data_dir=problems, prompts=kind, max_answer_tokens=TOKENS)
    figures = evaluate(config)
    evaluate(config.model_copy(update={"judge": "toolkit"}))
    samples = found["samples"]["lightreasoner_gsm8k"]
    assert len(samples) == 3 * ITEMS
    assert compared(samples, tmp_path, kind, folder) == []
    assert compared(samples, tmp_path, kind, folder, "toolkit") == []
    theirs = found["results"]["lightreasoner_gsm8k"]
    assert theirs["acc,math-verify"] == figures[f"{kind}/gsm8k"]["accuracy"]
    if kind == "chat":  # the miniature was not trained on the plain form, and solves nothing in it
        assert 0 < theirs["acc,math-verify"] < 1, "verdicts of one kind only say little"


def tasks_of(names: list[str], data_dir: Path) -> dict[str, Any]:
    return dict(manager(data_dir).load(names)["tasks"])


def test_there_is_a_task_for_each_benchmark_of_the_paper() -> None:
    group = yaml.safe_load((TASKS / "lightreasoner.yaml").read_text())
    assert group["task"] == [f"lightreasoner_{name}" for name in PAPER_SET]
    for name in [*PAPER_SET, "math500"]:
        task = yaml.safe_load((TASKS / f"lightreasoner_{name}.yaml").read_text())
        benchmark = BENCHMARKS[name]
        assert isinstance(benchmark, Benchmark)
        assert (task["task"], task["dataset_kwargs"]) == (f"lightreasoner_{name}", {"benchmark": name})
        assert task.get("num_fewshot", 0) == len(benchmark.demonstrations)
    shared = (TASKS / "_task").read_text()
    assert f"until: {json.dumps(list(END_MARKS))}" in shared


def test_the_public_files_give_our_items_and_prompts(data_dir: Path) -> None:
    """Every task that there are files for, with the demonstrations of MMLU-STEM, under a chat template of its own."""
    names = [name for name in (*PAPER_SET, "math500") if (data_dir / name).is_dir()]
    assert len(names) >= 6
    tokenizer = AutoTokenizer.from_pretrained(model_path("expert"))

    def chat_template(messages: list[dict[str, str]], **_: object) -> str:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    for name, task in tasks_of([f"lightreasoner_{name}" for name in names], data_dir).items():
        benchmark = BENCHMARKS[name.removeprefix("lightreasoner_")]
        assert isinstance(benchmark, Benchmark)
        ours = load_benchmark(benchmark.name, limit=None, data_dir=data_dir)
        docs = task.test_docs()
        assert [(doc["id"], doc["question"], doc["answer"]) for doc in docs] == [
            (item.id, item.question, item.answer) for item in ours
        ]
        shown = {"num_fewshot": task.config.num_fewshot}
        for kind, how in (
            ("chat", {"apply_chat_template": True, "chat_template": chat_template, "fewshot_as_multiturn": True}),
            ("plain", {}),
        ):
            template = PromptTemplate(tokenizer, kind=kind, demonstrations=benchmark.demonstrations)  # type: ignore[arg-type]
            assert task.fewshot_context(docs[0], **shown, **how) == template.render(ours[0].question)
            request = task.construct_requests(docs[0], "", metadata=(name, 0, 1), apply_chat_template=kind == "chat")
            assert {*request.arguments[1]["until"]} == {*END_MARKS, *template.stop_strings}


def test_a_system_instruction_takes_the_place_of_the_cue(problems: Path) -> None:
    (task,) = tasks_of(["lightreasoner_gsm8k"], problems).values()
    doc = task.test_docs()[0]

    def with_system(messages: list[dict[str, str]]) -> str:
        return "".join(f"<{message['role']}>{message['content']}" for message in messages)

    def without_system(messages: list[dict[str, str]]) -> str:
        return with_system([message for message in messages if message["role"] != "system"])

    question = doc["question"]
    chat = {"apply_chat_template": True}
    assert task.fewshot_context(doc, **chat, chat_template=with_system) == f"<system>{DEFAULT_CUE}<user>{question}"
    text = task.fewshot_context(doc, **chat, chat_template=with_system, system_instruction="Be brief.")
    assert text == f"<system>Be brief.<user>{question}"
    text = task.fewshot_context(doc, **chat, chat_template=without_system)
    assert text == f"<user>{DEFAULT_CUE}\n\n{question}", "a template without a system message must not drop the cue"
    text = task.fewshot_context(doc, system_instruction=DEFAULT_CUE)
    assert text == f"{DEFAULT_CUE}\n\nQuestion: {question}\nAnswer:"
    with pytest.raises(ConfigError, match="--num_fewshot 2: gsm8k has 0 demonstrations"):
        task.fewshot_context(doc, num_fewshot=2)


# By benchmark: a response, the gold answer, whether our judge accepts it, and whether lm-eval's own extraction does.
DIFFERENCES = {
    "gsm8k": [
        (r"So \boxed{72}. I checked it 2 times.", "72", True, False),  # the box, and not the last number
        (r"That is \boxed{0.5}.", "1/2", True, False),  # compared as a number, and not as text
        ("The answer is 7,200 dollars", "7200", True, True),
        ("The answer is not here. It was 5 or 6 of 6.", "6.", True, True),
        ("I do not know.", "5", False, False),
    ],
    "math500": [
        (r"So \boxed{\frac{2}{4}}.", r"\frac{1}{2}", True, False),  # compared as mathematics
        (r"The answer is $x+1$.", "x+1", True, False),  # no box
        (r"Hence \boxed{\sqrt{\frac{1}{x}}}", r"\sqrt{\frac{1}{x}}", True, True),
    ],
    "mmlu_stem": [
        ("The answer is B.", "B", True, False),  # no brackets
        ("Not (A), so (C).", "C", True, True),
    ],
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_differences_of_the_two_extractions(name: str, tmp_path: Path) -> None:
    from lm_eval.api.instance import Instance

    (tmp_path / name).mkdir()
    row = {"question": "?", "problem": "?", "answer": "#### 1", "choices": ["1", "2", "3"]}
    (tmp_path / name / "test.jsonl").write_text(json.dumps({**row, **({"answer": 0} if name == "mmlu_stem" else {})}))
    (task,) = tasks_of([f"lightreasoner_{name}"], tmp_path).values()
    task._instances = [
        Instance(
            "generate_until", {**task.test_docs()[0], "answer": gold}, ("?", {}), 0, (name, place, 1), resps=[text]
        )
        for place, (text, gold, _, _) in enumerate(DIFFERENCES[name])
    ]
    task.apply_filters()
    for (text, _, ours, theirs), instance in zip(DIFFERENCES[name], task._instances, strict=True):
        scores = {key: task.process_results(instance.doc, [found]) for key, found in instance.filtered_resps.items()}
        assert (scores["math-verify"], scores["flexible-extract"]) == ({"acc": ours}, {"exact_match": theirs}), text
        assert scores["toolkit"].keys() == {"acc"}
        found = instance.filtered_resps["math-verify"]
        # lm-eval gathers the results of several processes as pickles, and writes them as JSON.
        assert pickle.loads(pickle.dumps(found)).verdict == found.verdict
        assert json.loads(json.dumps(found)) == found


def test_the_command_line_prints_the_folder(capsys: pytest.CaptureFixture[str]) -> None:
    app(["benchmarks", "--lm-eval"], exit_on_error=False, print_error=False, result_action="return_value")
    assert capsys.readouterr().out == f"{TASKS}\n"


@pytest.mark.slow
def test_a_real_model_on_fifty_items_of_gsm8k(tmp_path: Path, data_dir: Path, smollm2_gguf: Path) -> None:
    """The documented command against `lightr evaluate`."""
    from lightreasoner.config.sections import MachineSettings
    from lightreasoner.models.loading import load_model, load_tokenizer
    from lightreasoner.models.source import find_model

    source, folder, log, out = find_model(str(smollm2_gguf)), tmp_path / "merged", tmp_path / "log", tmp_path / "ours"
    load_model(source, MachineSettings(dtype="float32", device="cpu")).save_pretrained(folder)
    load_tokenizer(source).save_pretrained(folder)
    command = [
        *[sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={folder},dtype=float32"],
        *["--tasks", "lightreasoner_gsm8k", "--include_path", str(TASKS), "--apply_chat_template"],
        *["--metadata", json.dumps({"data_dir": str(data_dir)}), "--gen_kwargs", "max_gen_toks=24"],
        *["--limit", "50", "--batch_size", "10", "--device", "cpu", "--log_samples", "--output_path", str(log)],
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = log.rglob("samples_lightreasoner_gsm8k_*.jsonl")
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    for row in samples:  # in the file, arguments are dictionaries
        row["arguments"] = [tuple(row["arguments"]["gen_args_0"].values())]
    evaluate(
        config_for(
            out, str(folder), benchmarks=("gsm8k",), data_dir=data_dir, max_items=50, max_answer_tokens=24, device="cpu"
        )
    )
    assert len(list(rows_of(samples, "math-verify"))) == 50
    assert compared(samples, out, "chat", folder) == []
