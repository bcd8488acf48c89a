"""Stage 4: what share of a benchmark's items a model answers correctly, and how sure that figure is.

    OUT/
      chat/gsm8k/answers/         every answer (`runs.records.Answer`), made once
      chat/gsm8k/math-verify/     its verdicts by one judge (`runs.records.JudgedAnswer`), its figures
      plain/gsm8k/…               the same under the plain prompt
      likelihood/hellaswag/choices/   benchmarks of given choices (`runs.records.ScoredChoices`)

Answers are made and judged as separate stages: each resumes by itself, and another judge needs no new answers.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from lightreasoner.config import BenchmarkName, EvaluateConfig, PromptKind
from lightreasoner.data.benchmarks import BENCHMARKS, PAPER_SET, Benchmark, items_hash, load_benchmark, load_choices
from lightreasoner.errors import ConfigError
from lightreasoner.evaluation import answering, choices, judging
from lightreasoner.evaluation.answering import ModelUnderTest
from lightreasoner.models.loading import dtype_name, find_model, load_tokenizer
from lightreasoner.models.prompts import PromptTemplate
from lightreasoner.runs.progress import say
from lightreasoner.runs.records import ChoiceProblem, Problem
from lightreasoner.runs.stage import open_stage

LIKELIHOOD = "likelihood"  # in the place of a kind of prompt: these benchmarks bring their own


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate a model on every benchmark of the config, or finish what is left of it.

    Returns:
        The figures of each benchmark, by its folder below `config.out`, such as `chat/gsm8k`.

    Raises:
        LightReasonerError: see `errors`; answers that were committed stay.
    """
    source = find_model(config.model, config.model_revision)
    tokenizer = load_tokenizer(source, trust_remote_code=config.trust_remote_code)
    evaluator = _Evaluator(config, ModelUnderTest(config, source, tokenizer), source.fingerprint())
    kinds: Sequence[PromptKind] = ("chat", "plain") if config.prompts == "both" else (config.prompts,)
    results = {}
    wanted = (PAPER_SET if name == "paper" else (name,) for name in config.benchmarks)
    for name in dict.fromkeys(chain.from_iterable(wanted)):
        if isinstance(BENCHMARKS[name], Benchmark):
            results.update({f"{kind}/{name}": evaluator.answer_and_judge(name, kind) for kind in kinds})
        else:
            results[f"{LIKELIHOOD}/{name}"] = evaluator.score_choices(name)
    return results


class _Evaluator:
    def __init__(self, config: EvaluateConfig, under_test: ModelUnderTest, model_sha256: str) -> None:
        self._config = config
        self._under_test = under_test
        self._model_sha256 = model_sha256

    def answer_and_judge(self, name: BenchmarkName, kind: PromptKind) -> dict[str, Any]:
        config = self._config
        benchmark = BENCHMARKS[name]
        assert isinstance(benchmark, Benchmark)
        items = load_benchmark(name, limit=config.max_items, data_dir=config.data_dir)
        template = PromptTemplate(
            self._under_test.tokenizer,
            config.cue,
            config.chat_template,
            kind=kind,
            demonstrations=benchmark.demonstrations,
        )
        decoding = {
            "max_answer_tokens": config.max_answer_tokens,
            "stop_strings": [*template.stop_strings, *config.stop_strings],
            "samples_per_problem": config.samples_per_problem,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "seed": config.seed if config.temperature else None,  # greedy decoding draws nothing
            **self._contrast(),
        }
        prompt = {
            "prompt": kind,
            "cue": config.cue if kind == "chat" else None,
            "template_sha256": template.fingerprint,
        }
        fingerprint = {**self._model_and_items(name, items), **prompt, **decoding}
        with open_stage(config.out, f"{kind}/{name}/answers", fingerprint, report=say) as answers:
            if answers.result is None:
                answering.answer_all(self._under_test, config, answers, name, items, template)
                answers.finish({"items": len(items)})
            judge = {**judging.judge_fingerprint(config), "answers": answers.digest}
            with open_stage(config.out, f"{kind}/{name}/{config.judge}", judge, report=say) as verdicts:
                if verdicts.result is None:
                    judging.judge_all(config, answers, verdicts, name)
                    figures = judging.summarise(name, answers, verdicts, config.samples_per_problem)
                    verdicts.finish({**figures, "items_known": self._known(name, items)})
                assert verdicts.result is not None
                return verdicts.result

    def score_choices(self, name: BenchmarkName) -> dict[str, Any]:
        config = self._config
        if config.contrast_with is not None:
            raise ConfigError(f"{name} is answered by likelihood, not by decoding; contrast_with means nothing there")
        items = load_choices(name, limit=config.max_items, data_dir=config.data_dir)
        fingerprint = self._model_and_items(name, items)
        with open_stage(config.out, f"{LIKELIHOOD}/{name}/choices", fingerprint, report=say) as stage:
            if stage.result is None:
                choices.score_all(self._under_test, config, stage, items)
                stage.finish({**choices.summarise(name, stage), "items_known": self._known(name, items)})
            assert stage.result is not None
            return stage.result

    def _model_and_items(
        self, name: BenchmarkName, items: Sequence[Problem] | Sequence[ChoiceProblem]
    ) -> dict[str, Any]:
        return {
            "model": self._config.model,
            "model_sha256": self._model_sha256,
            "dtype": dtype_name(self._config.dtype, self._config.device),
            "benchmark": name,
            "items": len(items),
            "items_sha256": items_hash(items),
        }

    def _contrast(self) -> dict[str, Any]:
        """What contrastive decoding adds to the settings that decide an answer."""
        config = self._config
        if config.contrast_with is None:
            return {}
        amateur = find_model(config.contrast_with, config.contrast_with_revision)
        return {
            "contrast_with": config.contrast_with,
            "contrast_with_sha256": amateur.fingerprint(),
            "contrast_alpha": config.contrast_alpha,
            "vocabulary": config.vocabulary,
        }

    def _known(self, name: BenchmarkName, items: Sequence[Problem] | Sequence[ChoiceProblem]) -> bool | None:
        """Whether these are the very items that the benchmark's name stands for; None where that cannot be told."""
        expected = BENCHMARKS[name].items_sha256
        if expected is None or self._config.max_items is not None:
            return None
        known = items_hash(items) == expected
        if not known:
            say(f"warning: the items of {name} are not those that others report figures on ({len(items)} read)")
        return known
