"""Our benchmarks as tasks of lm-evaluation-harness (`lm_eval` 0.4.13): our items, prompts and judges in its loop.

The YAML files of this folder are the tasks; `lightr benchmarks --lm-eval` prints the folder for --include_path. Items
come from `benchmarks.yaml` at its pinned revisions, or from the files of `--metadata '{"data_dir": "DIR"}'`.

With --apply_chat_template a task asks as `lightr evaluate --prompts chat` does, otherwise as `--prompts plain`. A judge
is a filter, so `acc,math-verify` is the accuracy of `lightr evaluate`. `exact_match,flexible-extract` is a convention
of lm-eval: the last match of a pattern, compared as text.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from lightreasoner.config.sections import DEFAULT_CUE, JudgeName
from lightreasoner.data.benchmarks import BENCHMARKS, Benchmark
from lightreasoner.errors import ConfigError
from lightreasoner.grading.pool import GradingPool
from lightreasoner.grading.verdicts import Case, Verdict
from lightreasoner.models.prompts import NEXT_QUESTION, chat_turn, plain_form
from lightreasoner.runs.records import Problem

Doc = Mapping[str, Any]


class Judged(str):
    """The answer that a judge found in a response; empty without one.

    Attributes:
        verdict: the judge's verdict on it.
    """

    __slots__ = ("verdict",)
    verdict: Verdict


def items(benchmark: str, data_dir: str | None = None, **_: object) -> dict[str, Dataset]:
    """The items of a benchmark as the documents of its task.

    Args:
        benchmark: name of a benchmark with generated answers.
        data_dir: folder whose `NAME/SPLIT.jsonl` replaces the benchmark's source.
        _: the other metadata, which lm-eval passes on, such as the arguments of the model.

    Raises:
        DataError, HubUnreachable: see `load_benchmark`.
    """
    found = _benchmark(benchmark)
    problems: list[Problem] = found.items(None, Path(data_dir) if data_dir else None)
    named = {"benchmark": benchmark, "kind": found.kind}
    rows = [{"id": one.id, "question": one.question, "answer": one.answer, **named} for one in problems]
    return {"test": Dataset.from_list(rows)}


def _benchmark(name: str) -> Benchmark:
    found = BENCHMARKS[name]
    assert isinstance(found, Benchmark)
    return found


def math_verify(responses: Sequence[Sequence[str]], docs: Iterable[Doc]) -> list[Judged]:
    """Filter: the first response to each document, judged as `--judge math-verify` does."""
    return _judged("math-verify", responses, docs)


def toolkit(responses: Sequence[Sequence[str]], docs: Iterable[Doc]) -> list[Judged]:
    """Filter: the first response to each document, judged as `--judge toolkit` does."""
    return _judged("toolkit", responses, docs)


def _judged(judge: JudgeName, responses: Sequence[Sequence[str]], docs: Iterable[Doc]) -> list[Judged]:
    cases = [
        Case(texts[0], doc["answer"], doc["kind"], doc["benchmark"]) for texts, doc in zip(responses, docs, strict=True)
    ]
    answers = []
    with GradingPool(judge, symbolic=any(case.kind == "expression" for case in cases)) as pool:
        for found in pool.judge(cases):
            answer = Judged(found.extracted or "")
            answer.verdict = found.verdict
            answers.append(answer)
    return answers


class Task(ConfigurableTask):
    """A benchmark under our prompts.

    --system_instruction replaces the cue of a chat, and precedes the plain form.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def fewshot_docs(self) -> None:
        """None: the demonstrations of a benchmark are no documents of its data set."""

    def fewshot_context(
        self,
        doc: Doc,
        num_fewshot: int = 0,
        system_instruction: str | None = None,
        apply_chat_template: bool = False,
        fewshot_as_multiturn: bool = False,
        chat_template: Callable[..., Any] | None = None,
        **_: object,
    ) -> Any:
        """The prompt of a document, as `models.prompts.PromptTemplate` writes it.

        Demonstrations are in the user's one turn, whatever `fewshot_as_multiturn` says.

        Raises:
            ConfigError: the benchmark has fewer demonstrations.
        """
        demonstrations = _benchmark(doc["benchmark"]).demonstrations
        if num_fewshot > len(demonstrations):
            raise ConfigError(
                f"--num_fewshot {num_fewshot}: {doc['benchmark']} has {len(demonstrations)} demonstrations. Leave the "
                "option out"
            )
        shown = demonstrations[:num_fewshot]
        if not apply_chat_template or chat_template is None:
            plain = plain_form(doc["question"], shown)
            return f"{system_instruction}\n\n{plain}" if system_instruction else plain
        cue = DEFAULT_CUE if system_instruction is None else system_instruction
        turn = chat_turn(doc["question"], shown)
        prompt = chat_template([{"role": "system", "content": cue}, {"role": "user", "content": turn}])
        if isinstance(prompt, str) and cue not in prompt:  # the template has no system message
            prompt = chat_template([{"role": "user", "content": f"{cue}\n\n{turn}"}])
        return prompt

    def construct_requests(self, doc: Doc, ctx: Any, **how: Any) -> Instance:
        """The request of a document; under the plain prompt the answer also ends before a next question."""
        is_plain = not how.get("apply_chat_template")
        request = super().construct_requests(doc, ctx, **how)
        if is_plain:
            request.arguments[1]["until"].append(NEXT_QUESTION)
        return request

    def process_results(self, doc: Doc, results: Sequence[str]) -> dict[str, float]:
        """`acc` of a judge's filter, `exact_match` of another."""
        found = results[0]
        if isinstance(found, Judged):
            return {"acc": float(found.verdict == "correct")}
        return {"exact_match": float(super().process_results(doc, results)["exact_match"])}
