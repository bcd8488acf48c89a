"""Stage 4: what share of a benchmark's items a model answers correctly, greedy, first try.

Writes `OUT/BENCHMARK/answers-*.parquet` (`records.Answer`) and `result.json`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from lightreasoner.benchmarks import load_benchmark
from lightreasoner.config import BenchmarkName, EvaluateConfig
from lightreasoner.engines import Decoding, Engine, TransformersEngine, in_halves
from lightreasoner.errors import DataError
from lightreasoner.grading import VERDICTS, grade_number
from lightreasoner.models import ModelSource, dtype_name, find_model, load_model, load_tokenizer
from lightreasoner.progress import progress, say
from lightreasoner.prompts import PromptTemplate
from lightreasoner.records import Answer, Problem
from lightreasoner.runs import StageFolder, open_stage, read_stage, stop_signals
from lightreasoner.statistics import Accuracy, PairedTest, mcnemar


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate a model on every benchmark of the config, or finish what is left of it.

    Returns:
        Result of each benchmark by name: counts of verdicts, accuracy, interval.

    Raises:
        LightReasonerError: see `errors`; answers that were committed stay.
    """
    source = find_model(config.model, config.model_revision)
    tokenizer = load_tokenizer(source, trust_remote_code=config.trust_remote_code)
    template = PromptTemplate(tokenizer, config.cue, config.chat_template)
    evaluator = _Evaluator(config, source, tokenizer, template)
    return {name: evaluator.run(name) for name in config.benchmarks}


class _Evaluator:
    def __init__(
        self,
        config: EvaluateConfig,
        source: ModelSource,
        tokenizer: PreTrainedTokenizerBase,
        template: PromptTemplate,
    ) -> None:
        self._config = config
        self._source = source
        self._tokenizer = tokenizer
        self._template = template
        self._model_sha256 = source.fingerprint()
        self._engine: tuple[Engine, Decoding] | None = None

    def run(self, name: BenchmarkName) -> dict[str, Any]:
        items = load_benchmark(name, limit=self._config.max_items, data_dir=self._config.data_dir)
        ids = "\n".join(f"{item.id} {item.answer}" for item in items)
        fingerprint = {
            "model": self._config.model,
            "model_sha256": self._model_sha256,
            "benchmark": name,
            "items": len(items),
            "items_sha256": hashlib.sha256(ids.encode()).hexdigest(),
            "cue": self._config.cue,
            "template_sha256": self._template.fingerprint,
            "max_answer_tokens": self._config.max_answer_tokens,
            "dtype": dtype_name(self._config.dtype, self._config.device),
        }
        with open_stage(self._config.out, name, fingerprint, report=say) as stage:
            if stage.result is None:
                self._fill(stage, name, items)
                stage.finish(_result(stage.counts))
            assert stage.result is not None
            return stage.result

    def _fill(self, stage: StageFolder, name: str, items: Sequence[Problem]) -> None:
        settled = stage.settled_ids
        waiting = [(item, self._template.encode(item.question)) for item in items if item.id not in settled]
        waiting.sort(key=lambda pair: len(pair[1]))  # prompts of like length share a batch
        size = self._config.answer_batch_size
        with progress(f"{self._config.model} on {name}", len(items), len(settled)) as advance, stop_signals() as stop:
            for start in range(0, len(waiting), size):
                stop.check()
                batch = waiting[start : start + size]
                answers = in_halves(batch, lambda part: self._answer(name, part))
                counts: dict[str, int] = {
                    verdict: sum(answer.verdict == verdict for answer in answers) for verdict in VERDICTS
                }
                truncated = sum(answer.truncated for answer in answers)
                tokens = sum(len(answer.output_ids) for answer in answers)
                stage.commit(
                    [answer.question_id for answer in answers],
                    {"answers": Answer.table(answers)},
                    {**counts, "truncated": truncated, "tokens": tokens},
                )
                advance(len(batch))

    def _answer(self, name: str, batch: Sequence[tuple[Problem, list[int]]]) -> list[Answer]:
        engine, decoding = self._loaded()
        outputs = engine.generate([prompt_ids for _, prompt_ids in batch], decoding)
        return [
            self._judge(name, item, output_ids, truncated=output_ids[-1] not in decoding.stop_ids)
            for (item, _), output_ids in zip(batch, outputs, strict=True)
        ]

    def _judge(self, name: str, item: Problem, output_ids: list[int], *, truncated: bool) -> Answer:
        output = str(self._tokenizer.decode(output_ids, skip_special_tokens=True))
        assert item.answer is not None
        extracted, verdict = grade_number(output, item.answer)
        return Answer(
            question_id=item.id,
            benchmark=name,
            question=item.question,
            gold=item.answer,
            output_ids=output_ids,
            output=output,
            extracted=extracted,
            verdict=verdict,
            truncated=truncated,
        )

    def _loaded(self) -> tuple[Engine, Decoding]:
        """The model, loaded when the first answer is needed: a finished evaluation never loads it."""
        if self._engine is None:
            model = load_model(
                self._source,
                dtype=self._config.dtype,
                device=self._config.device,
                trust_remote_code=self._config.trust_remote_code,
            )
            stop_ids = self._template.stop_ids(model.generation_config)
            self._engine = TransformersEngine(model), Decoding(self._config.max_answer_tokens, stop_ids)
        return self._engine


def _result(counts: dict[str, int]) -> dict[str, Any]:
    total = sum(counts[verdict] for verdict in VERDICTS)
    accuracy = Accuracy.of(counts["correct"], total)
    return {**counts, "total": total, "accuracy": accuracy.value, "low": accuracy.low, "high": accuracy.high}


def compare(before: Path, after: Path) -> dict[str, Any]:
    """Paired comparison of two evaluations of one benchmark, item by item.

    Args:
        before: benchmark folder of the first evaluation.
        after: benchmark folder of the second.

    Returns:
        Fields of `statistics.PairedTest`, and the gain.

    Raises:
        DataError: they did not answer the same items.
        RunCorrupted: one of them is unfinished or damaged.
    """
    first, second = _verdicts(before), _verdicts(after)
    if first.keys() != second.keys():
        raise DataError(f"{before} and {after} did not answer the same items; a paired test needs the same ones")
    test: PairedTest = mcnemar(list(first.values()), [second[item] for item in first])
    return {**asdict(test), "gain": test.gain}


def _verdicts(folder: Path) -> dict[str, bool]:
    _, stage = read_stage(folder)
    return {
        row.question_id: row.verdict == "correct" for table in stage.tables("answers") for row in Answer.rows(table)
    }
