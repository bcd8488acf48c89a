"""Read a finished evaluation folder; `evaluation.evaluate` documents its layout."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, get_args

from lightreasoner.config.sections import JudgeName
from lightreasoner.data.benchmarks import BENCHMARKS, Benchmark, ChoiceBenchmark, HubSource
from lightreasoner.data.own import recorded_benchmark
from lightreasoner.errors import DataError, RunCorrupted
from lightreasoner.runs.stage import StageFolder, read_stage

JUDGES: tuple[JudgeName, ...] = get_args(JudgeName)  # by priority


class DataSet(NamedTuple):
    """The source of a benchmark's items, in the terms of other tools."""

    path: str  # id on the Hub, or the benchmark's name if it is not on the Hub
    configuration: str | None  # None if there is none, or several
    split: str  # several are joined by `+`
    revision: str | None  # commit on the Hub; None if it is not on the Hub, or the items may differ from it


@dataclass(frozen=True)
class Evaluated:
    """One benchmark under one kind of prompt.

    Attributes:
        prompt: chat, plain or likelihood.
        how: by subject (prompt, decoding, …), the settings that decided the answers, apart from model and items.
        settings: everything that decided the answers, flat.
        stage: finished stage of answers or choices.
        judged: by judge, what decided its verdicts by subject, and their finished stage; empty for choices.
    """

    benchmark: Benchmark | ChoiceBenchmark
    prompt: str
    how: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any]
    stage: StageFolder
    judged: Mapping[JudgeName, tuple[Mapping[str, Mapping[str, Any]], StageFolder]]

    @property
    def label(self) -> str:
        """A name in one word: `gsm8k_chat`, or `hellaswag` for likelihoods, which have one kind of prompt."""
        return f"{self.benchmark.name}_{self.prompt}" if self.judged else self.benchmark.name

    @property
    def model(self) -> str:
        """The model's name; `unknown` for an import without one."""
        return self.settings.get("model") or "unknown"

    @property
    def data_set(self) -> DataSet:
        """The source of the items."""
        source = self.benchmark.source
        if not isinstance(source, HubSource):
            return DataSet(self.benchmark.name, None, self.benchmark.split, None)
        configuration = source.configurations[0] if len(source.configurations) == 1 else None
        known = self.figures.get("items_known")
        # Unknown, as for a part of the items: our evaluations read this commit unless --data-dir was given.
        revision = source.revision if known or (known is None and not self.is_imported) else None
        return DataSet(source.dataset, configuration, "+".join(source.splits), revision)

    @property
    def is_imported(self) -> bool:
        """Whether another tool made the answers."""
        return "imported_from" in self.settings

    @property
    def decisive(self) -> StageFolder:
        """The stage with the figures: the verdicts of the first judge, or the choices."""
        return next((stage for _, stage in self.judged.values()), self.stage)

    @property
    def figures(self) -> Mapping[str, Any]:
        """The result of the decisive stage."""
        assert self.decisive.result is not None
        return self.decisive.result

    @property
    def time(self) -> datetime:
        """Start of the decisive stage, in UTC.

        Raises:
            RunCorrupted: its manifest has no valid time.
        """
        manifest = self.decisive.path / "manifest.json"
        try:
            return datetime.fromisoformat(json.loads(manifest.read_text())["created"]).astimezone(UTC)
        except (OSError, ValueError, KeyError, TypeError):
            raise RunCorrupted(f"{manifest} has no valid time of creation. Restore it, or evaluate again") from None


def read_evaluation(folder: Path) -> list[Evaluated]:
    """All benchmarks of an evaluation, those of answers first.

    Args:
        folder: `--out` folder of `lightr evaluate`.

    Raises:
        DataError: there are none, or one has no verdicts.
        RunCorrupted: a stage is unfinished or damaged.
    """
    found = sorted(folder.glob("*/*/answers/manifest.json")) + sorted(folder.glob("*/*/choices/manifest.json"))
    if not found:
        raise DataError(f"{folder} holds no evaluation. Give the --out folder of `lightr evaluate`")
    return [_read(manifest.parent) for manifest in found]


def _read(path: Path) -> Evaluated:
    place = path.parent
    benchmark = BENCHMARKS.get(place.name) or recorded_benchmark(path)
    if benchmark is None:
        raise DataError(f"{place}: there is no benchmark {place.name}, so its figures cannot be read. Remove it")
    fingerprint, stage = read_stage(path)
    how = fingerprint.get("how", {})
    settings = {name: value for part in (fingerprint, *how.values()) for name, value in part.items() if name != "how"}
    judges = [judge for judge in JUDGES if (place / judge / "manifest.json").exists()]
    if path.name == "answers" and not judges:
        raise DataError(f"{place} has no verdicts of any judge. Make them with `lightr evaluate`")
    judged = {judge: read_stage(place / judge) for judge in judges}
    judged_how = {judge: (facts.get("how", {}), verdicts) for judge, (facts, verdicts) in judged.items()}
    return Evaluated(benchmark, place.parent.name, how, settings, stage, judged_how)
