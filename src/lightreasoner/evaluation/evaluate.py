"""Stage 4: the share of a benchmark's items that a model answers correctly, with its uncertainty.

    OUT/
      chat/gsm8k/answers/         every answer (`runs.records.Answer`), made once
      chat/gsm8k/math-verify/     its verdicts by one judge (`runs.records.JudgedAnswer`), its figures
      plain/gsm8k/…               the same under the plain prompt
      likelihood/hellaswag/choices/   benchmarks of given choices (`runs.records.ScoredChoices`)

Answering and judging are separate stages: each resumes by itself, and another judge needs no new answers. The
fingerprint of a stage holds model and items, and under `how`, by subject, the settings that decided a score.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from lightreasoner.config import AnswerSettings, BenchmarkName, EvaluateConfig, PromptKind
from lightreasoner.data.benchmarks import BENCHMARKS, PAPER_SET, Benchmark, items_hash, load_benchmark, load_choices
from lightreasoner.errors import ConfigError
from lightreasoner.evaluation.answering import Answering, ModelUnderTest
from lightreasoner.evaluation.choices import Scoring, summarise_choices
from lightreasoner.evaluation.judging import judge_all, judge_identity, summarise
from lightreasoner.models.loading import content_hash, dtype_name, find_model, load_generation_config, load_tokenizer
from lightreasoner.models.prompts import PromptTemplate
from lightreasoner.runs.claims import prompts_time
from lightreasoner.runs.progress import say
from lightreasoner.runs.records import ChoiceProblem, Problem
from lightreasoner.runs.stage import open_stage, settle

LIKELIHOOD = "likelihood"  # takes the place of a kind of prompt for benchmarks of given choices


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Stage 4: measure accuracy on benchmarks with 95 % intervals; by default greedy pass@1.

    Returns:
        The figures of each benchmark, by its folder below `config.out`, such as `chat/gsm8k`.

    Raises:
        LightReasonerError: see `errors`; committed answers are kept.
    """
    source = find_model(config.model, config.model_revision)
    evaluator = _Evaluator(config, ModelUnderTest(config, source, load_tokenizer(source, config)))
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
    def __init__(self, config: EvaluateConfig, under_test: ModelUnderTest) -> None:
        self._config = config
        self._under_test = under_test
        files = under_test.source.files()
        self._model = {"model": config.model, "model_sha256": content_hash(files), "model_files": files}
        self._generation_config = load_generation_config(under_test.source)

    def answer_and_judge(self, name: BenchmarkName, kind: PromptKind) -> dict[str, Any]:
        config = self._config
        benchmark = BENCHMARKS[name]
        assert isinstance(benchmark, Benchmark)
        items = load_benchmark(name, limit=config.max_items, data_dir=config.data_dir)
        asked_at = prompts_time(config.out, f"{kind}/{name}/answers")
        template = PromptTemplate(
            self._under_test.tokenizer,
            config.cue,
            config.chat_template,
            kind=kind,
            demonstrations=benchmark.demonstrations,
            at=asked_at,
        )
        cue = config.cue if kind == "chat" else None
        stops = template.stops(self._generation_config, config.stop_strings)
        asked = template.identity(stops)
        ends = {name: asked.pop(name) for name in ("stop_tokens", "stop_strings")}
        prompt = {"prompt": kind, "cue": cue, **asked}
        decoding = {
            **config.identity(AnswerSettings),
            **ends,
            "seed": config.seed if config.temperature else None,  # greedy decoding draws nothing
            **self._contrast(),
        }
        answered = self._identity(name, items, prompt=prompt, decoding=decoding)
        with open_stage(config.out, f"{kind}/{name}/answers", answered, say, asked_at=asked_at) as answers:
            if answers.result is None:
                answering = Answering(self._under_test, config, name, template, stops)
                size = answering.questions * config.samples_per_problem
                settle(answers, answering.ask(items), size, answering, total=len(items))
                answers.finish({"items": len(items)})
            judged = {"answers": answers.digest, "how": {"judge": judge_identity(config)}}
            with open_stage(config.out, f"{kind}/{name}/{config.judge}", judged, say) as verdicts:
                if verdicts.result is not None:
                    return verdicts.result
                judge_all(config, answers, verdicts, name)
                figures = summarise(name, answers, verdicts, config.samples_per_problem)
                return verdicts.finish({**figures, "items_known": self._known(name, items)})

    def score_choices(self, name: BenchmarkName) -> dict[str, Any]:
        config = self._config
        if config.contrast_with is not None:
            raise ConfigError(f"{name} is answered by likelihood, not by decoding; contrast_with means nothing there")
        items = load_choices(name, limit=config.max_items, data_dir=config.data_dir)
        with open_stage(config.out, f"{LIKELIHOOD}/{name}/choices", self._identity(name, items), say) as stage:
            if stage.result is not None:
                return stage.result
            scoring = Scoring(self._under_test, f"{config.model} on {name}")
            settle(stage, items, config.answer_batch_size, scoring, total=len(items))
            return stage.finish({**summarise_choices(name, stage), "items_known": self._known(name, items)})

    def _identity(
        self, name: BenchmarkName, items: Sequence[Problem] | Sequence[ChoiceProblem], **how: dict[str, Any]
    ) -> dict[str, Any]:
        """Model and items, and under `how` all settings that decide the rows."""
        asked = {"benchmark": name, "items": len(items), "items_sha256": items_hash(items)}
        return {**self._model, **asked, "how": {**how, "precision": {"dtype": dtype_name(self._config)}}}

    def _contrast(self) -> dict[str, Any]:
        """The settings that contrastive decoding adds."""
        config = self._config
        if config.contrast_with is None:
            return {}
        amateur = find_model(config.contrast_with, config.contrast_with_revision)
        return {
            "contrast_with": config.contrast_with,
            "contrast_with_files": amateur.files(),
            "contrast_alpha": config.contrast_alpha,
            "vocabulary": config.vocabulary,
        }

    def _known(self, name: BenchmarkName, items: Sequence[Problem] | Sequence[ChoiceProblem]) -> bool | None:
        """Whether these are exactly the items of the published benchmark; None if that cannot be decided."""
        expected = BENCHMARKS[name].items_sha256
        if expected is None or self._config.max_items is not None:
            return None
        known = items_hash(items) == expected
        if not known:
            say(f"warning: the items of {name} are not those that others report figures on ({len(items)} read)")
        return known
