"""Stage 4: the share of a benchmark's items that a model answers correctly, with its uncertainty.

    OUT/
      chat/gsm8k/answers/         every answer (`runs.records.Answer`), made once
      chat/gsm8k/math-verify/     its verdicts by one judge (`runs.records.JudgedAnswer`), its figures
      plain/gsm8k/…               the same under the plain prompt
      chat/my/…                   the same for a file of own problems, my.jsonl
      likelihood/hellaswag/choices/   benchmarks of given choices (`runs.records.ScoredChoices`)

Answering and judging are separate stages: each resumes by itself, and another judge needs no new answers. The
fingerprint of a stage holds model and items, and under `how`, by subject, the settings that decided a score.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np

from lightreasoner.config import EvaluateConfig
from lightreasoner.config.sections import BATCH_SIZES, AnswerSettings, PromptKind
from lightreasoner.data.benchmarks import Benchmark, ChoiceBenchmark, items_hash
from lightreasoner.data.own import OwnBenchmark, chosen_benchmarks
from lightreasoner.errors import ConfigError, RunMismatch
from lightreasoner.evaluation.answering import Answering, ModelUnderTest, contrasted_pair
from lightreasoner.evaluation.choices import Scoring, summarise_choices
from lightreasoner.evaluation.judging import judge_all, judge_identity, summarise
from lightreasoner.inference.memory import worker_devices
from lightreasoner.models.loading import dtype_name, load_generation_config, load_tokenizer, weight_bytes, with_adapter
from lightreasoner.models.prompts import PromptTemplate
from lightreasoner.models.source import content_hash, find_model
from lightreasoner.runs.joining import Joined
from lightreasoner.runs.locks import one_thread
from lightreasoner.runs.owning import run_shared
from lightreasoner.runs.progress import busy, say, warn
from lightreasoner.runs.records import ChoiceProblem, Problem
from lightreasoner.runs.sharing import Sharing
from lightreasoner.runs.stage import StageFolder, open_stage, settle
from lightreasoner.runs.tracking import check_trackers, track_result

LIKELIHOOD = "likelihood"  # takes the place of a kind of prompt for benchmarks of given choices


@one_thread
def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Stage 4: measure accuracy on benchmarks with 95 % intervals; by default greedy pass@1.

    Returns:
        The figures of each benchmark, by its folder below `config.out`, such as `chat/gsm8k`.

    Raises:
        LightReasonerError: see `errors`; committed answers are kept.
    """
    check_trackers(config.report_to)
    result = run_shared(config, "evaluation.evaluate:evaluate", _evaluate, partial(_devices, config))
    track_result(config, config.out, "evaluate", result)
    return result


def _evaluate(config: EvaluateConfig, sharing: Sharing) -> dict[str, Any]:
    benchmarks = read_items(config)
    source = with_adapter(find_model(config.model, config.model_revision), config.adapter)
    kinds: Sequence[PromptKind] = ("chat", "plain") if config.prompts == "both" else (config.prompts,)
    asked = [
        (benchmark, items, kind)
        for benchmark, items in benchmarks
        for kind in (kinds if isinstance(benchmark, Benchmark) else (LIKELIHOOD,))
    ]
    config = sharing.with_precision(config, _stage_of(*asked[0]))
    under_test = ModelUnderTest(config, source, load_tokenizer(source, config))
    evaluator = _Evaluator(config, under_test, sharing)
    for benchmark, _ in benchmarks:
        if isinstance(benchmark, OwnBenchmark):
            say(benchmark.note)
    with ExitStack() as stack:
        # All are opened before the first is worked on: workers go on to the next while this process judges.
        stack.enter_context(closing(under_test.served))
        tasks = [stack.enter_context(evaluator.open(*one)) for one in asked]
        for task in tasks:
            task.stage.stop_clock()
        if isinstance(sharing, Joined):
            for sharing.linger in (False, True):
                for task in tasks:
                    task.settle()
            return {}
        return {task.name: task.result() for task in tasks}


def _devices(config: EvaluateConfig) -> list[str]:
    """The device of each worker."""
    if config.contrast_with is not None:
        sources = contrasted_pair(config).own_weights
    else:
        sources = [find_model(config.model, config.model_revision)]
    return worker_devices(config, config, weight_bytes(sources, config))


def _stage_of(benchmark: Benchmark | ChoiceBenchmark, items: Sequence[Any], kind: str) -> str:
    """Folder of the answers to a benchmark."""
    return f"{kind}/{benchmark.name}/{'answers' if isinstance(benchmark, Benchmark) else 'choices'}"


@busy("reading the benchmarks")
def read_items(config: EvaluateConfig) -> list[tuple[Benchmark | ChoiceBenchmark, list[Any]]]:
    """The benchmarks with their items, all read before the first answer, so that a missing one is found then.

    Raises:
        ConfigError: contrastive decoding of given choices.
        DataError, HubUnreachable: see `chosen_benchmarks`.
    """
    benchmarks = chosen_benchmarks(config)
    choices = [benchmark.name for benchmark in benchmarks if isinstance(benchmark, ChoiceBenchmark)]
    if choices and config.contrast_with is not None:
        raise ConfigError(f"{choices[0]} is answered by likelihood, not by decoding; contrast_with means nothing there")
    return [(benchmark, _chosen_items(config, benchmark)) for benchmark in benchmarks]


def _chosen_items(config: EvaluateConfig, benchmark: Benchmark | ChoiceBenchmark) -> list[Any]:
    """The items of a benchmark to answer, in its order; ids keep their place in the benchmark."""
    skipped, limit, seed = config.skip_items, config.max_items, config.items_seed
    # A generator would go on beyond the benchmark's last item.
    read = benchmark.size if benchmark.source is None else None
    if limit is not None and seed is None:
        read = min(skipped + limit, read or skipped + limit)
    items = benchmark.items(read, config.data_dir)
    left = items[skipped:]
    if not left:
        raise ConfigError(f"{benchmark.name} has {len(items)} items, and --skip-items {skipped} leaves out all of them")
    if seed is None:
        return left
    drawn = np.random.default_rng(seed).permutation(len(left))[:limit]
    return [left[place] for place in sorted(drawn)]


@dataclass(frozen=True)
class _Task:
    """One benchmark, and the open stage of its answers.

    Attributes:
        name: its folder in `config.out`, such as `chat/gsm8k`.
        answer: settles the stage.
        figures: judges its answers and finishes it.
    """

    name: str
    stage: StageFolder
    answer: Callable[[], None]
    figures: Callable[[], dict[str, Any]]

    def settle(self) -> None:
        """Answer what is not answered."""
        if self.stage.result is None:
            self.answer()

    def result(self) -> dict[str, Any]:
        """The figures, made or from an earlier run."""
        self.stage.start_clock()
        self.settle()
        return self.figures()


class _Evaluator:
    def __init__(self, config: EvaluateConfig, under_test: ModelUnderTest, sharing: Sharing) -> None:
        self._config = config
        self._under_test = under_test
        self._sharing = sharing
        files = under_test.source.files()
        self._model = {"model": config.model, "model_sha256": content_hash(files), "model_files": files}
        if (adapter_files := under_test.source.adapter_files()) is not None:
            self._model["adapter_files"] = adapter_files
        self._generation_config = load_generation_config(under_test.source)
        self._amateur = contrasted_pair(config).amateur if config.contrast_with else None
        self._dtype = dtype_name(config, under_test.source, *([self._amateur] if self._amateur else []))
        self._now = datetime.now()

    @contextmanager
    def open(self, benchmark: Benchmark | ChoiceBenchmark, items: Sequence[Any], kind: str) -> Iterator[_Task]:
        """Open the answers to a benchmark."""
        if isinstance(benchmark, ChoiceBenchmark):
            with self._open_choices(benchmark, items) as task:
                yield task
        else:
            with self._open_answers(benchmark, items, "plain" if kind == "plain" else "chat") as task:
                yield task

    @contextmanager
    def _open_answers(self, benchmark: Benchmark, items: Sequence[Problem], kind: PromptKind) -> Iterator[_Task]:
        config, name = self._config, benchmark.name
        folder = _stage_of(benchmark, items, kind)
        asked_at = self._sharing.prompts_time(config.out, folder, self._now)
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
            **self._under_test.served.identity(),
        }
        answered = self._identity(name, items, prompt=prompt, decoding=decoding)
        record = None
        if isinstance(benchmark, OwnBenchmark):
            record = benchmark.record
            self._refuse_changed(benchmark, folder)
        with open_stage(config.out, folder, answered, say, record, asked_at, self._sharing) as answers:

            def answer() -> None:
                answering = Answering(self._under_test, config, name, template, stops)
                size = answering.questions * config.samples_per_problem
                settle(answers, answering.ask(items), size, answering, total=len(items))

            def judge() -> dict[str, Any]:
                if answers.result is None:
                    answers.finish({"items": len(items)})
                judged = {"answers": answers.digest, "how": {"judge": judge_identity(config, benchmark)}}
                with open_stage(config.out, f"{kind}/{name}/{config.judge}", judged, say) as verdicts:
                    if verdicts.result is not None:
                        return verdicts.result
                    judge_all(config, answers, verdicts, benchmark)
                    figures = summarise(benchmark, answers, verdicts, config.samples_per_problem)
                    return verdicts.finish({**figures, "items_known": self._known(benchmark, items)})

            yield _Task(f"{kind}/{name}", answers, answer, judge)

    @contextmanager
    def _open_choices(self, benchmark: ChoiceBenchmark, items: Sequence[ChoiceProblem]) -> Iterator[_Task]:
        config, name = self._config, benchmark.name
        folder, identity = _stage_of(benchmark, items, LIKELIHOOD), self._identity(name, items)
        with open_stage(config.out, folder, identity, say, sharing=self._sharing) as stage:

            def answer() -> None:
                scoring = Scoring(self._under_test, f"{config.model} on {name}")
                settle(stage, items, config.answer_batch_size or BATCH_SIZES["own"], scoring, total=len(items))

            def finish() -> dict[str, Any]:
                if stage.result is not None:
                    return stage.result
                return stage.finish({**summarise_choices(name, stage), "items_known": self._known(benchmark, items)})

            yield _Task(f"{LIKELIHOOD}/{name}", stage, answer, finish)

    def _refuse_changed(self, benchmark: OwnBenchmark, stage: str) -> None:
        """Refuse to mix the answers to two states of a file."""
        folder = self._config.out / stage
        try:
            before = json.loads((folder / "manifest.json").read_text())["record"]
            answered = (folder / "ledger.jsonl").stat().st_size > 0
            changed = answered and before["content_sha256"] != benchmark.record["content_sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return  # there is none, or `open_stage` says what is wrong with it
        if changed:
            raise RunMismatch(
                f"{folder} holds answers to {before['own']['source']} as it was ({before['own']['size']} problems). "
                f"{benchmark.source} has other questions or answers now ({benchmark.size} problems). Restore the file "
                "(or --question-field and --answer-field), or give another folder with --out"
            )

    def _identity(
        self, name: str, items: Sequence[Problem] | Sequence[ChoiceProblem], **how: dict[str, Any]
    ) -> dict[str, Any]:
        """Model and items, and under `how` all settings that decide the rows."""
        asked = {"benchmark": name, "items": len(items), "items_sha256": items_hash(items)}
        part = {"skip_items": self._config.skip_items or None, "items_seed": self._config.items_seed}
        asked |= {key: value for key, value in part.items() if value is not None}
        return {**self._model, **asked, "how": {**how, "precision": {"dtype": self._dtype}}}

    def _contrast(self) -> dict[str, Any]:
        """The settings that contrastive decoding adds."""
        config, amateur = self._config, self._amateur
        if amateur is None:
            return {}
        adapter = {"contrast_with_adapter_files": files} if (files := amateur.adapter_files()) else {}
        return {
            "contrast_with": config.contrast_with,
            "contrast_with_files": amateur.files(),
            **adapter,
            "contrast_alpha": config.contrast_alpha,
            "vocabulary": config.vocabulary,
        }

    def _known(
        self, benchmark: Benchmark | ChoiceBenchmark, items: Sequence[Problem] | Sequence[ChoiceProblem]
    ) -> bool | None:
        """Whether these are exactly the items of the published benchmark; None if that cannot be decided."""
        expected = benchmark.items_sha256
        if expected is None or self._config.max_items is not None or self._config.skip_items:
            return None
        known = items_hash(items) == expected
        if not known:
            name, count = benchmark.name, len(items)
            warn(f"the items of {name} are not those that others report figures on ({count} read)")
        return known
