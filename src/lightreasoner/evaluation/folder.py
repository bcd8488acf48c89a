"""What an evaluation folder holds, for whoever reads finished ones. `evaluation` says how it is laid out."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, get_args

from lightreasoner.config import JudgeName
from lightreasoner.data.benchmarks import BENCHMARKS, Benchmark, ChoiceBenchmark, HubSource
from lightreasoner.errors import DataError, RunCorrupted
from lightreasoner.runs.stage import StageFolder, read_stage

JUDGES: tuple[JudgeName, ...] = get_args(JudgeName)  # where one must do, the first that there is


class DataSet(NamedTuple):
    """Where items are from, as other tools name it.

    Attributes:
        path: id on the Hub, or the benchmark's name if it is not there.
        configuration: None where there is none, or several.
        split: several are joined by `+`.
        revision: commit on the Hub; None where it is not there, or the items may be others.
    """

    path: str
    configuration: str | None
    split: str
    revision: str | None


@dataclass(frozen=True)
class Evaluated:
    """One benchmark under one kind of prompt.

    Attributes:
        benchmark: its entry in the table.
        prompt: chat, plain or likelihood.
        how: by subject (prompt, decoding, …), the settings that decided the answers beside model and items.
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
        """What to call it in one word: `gsm8k_chat`, or `hellaswag` where there is one kind of prompt only."""
        return f"{self.benchmark.name}_{self.prompt}" if self.judged else self.benchmark.name

    @property
    def model(self) -> str:
        """The model's name; `unknown` where an import did not tell."""
        return self.settings.get("model") or "unknown"

    @property
    def is_on_hub(self) -> bool:
        """The benchmark is a data set on the Hub."""
        return isinstance(self.benchmark.source, HubSource)

    @property
    def data_set(self) -> DataSet:
        """Where the benchmark is from."""
        source = self.benchmark.source
        if not isinstance(source, HubSource):
            return DataSet(self.benchmark.name, None, self.benchmark.split, None)
        configuration = source.configurations[0] if len(source.configurations) == 1 else None
        known = self.figures.get("items_known")
        # Where nobody can tell, as of some of the items, our evaluations read this commit unless --data-dir was given.
        revision = source.revision if known or (known is None and not self.is_imported) else None
        return DataSet(source.dataset, configuration, "+".join(source.splits), revision)

    @property
    def is_imported(self) -> bool:
        """Another tool made the answers."""
        return "imported_from" in self.settings

    @property
    def decisive(self) -> StageFolder:
        """The stage that has the figures: the verdicts of the first judge, or the choices."""
        return next((stage for _, stage in self.judged.values()), self.stage)

    @property
    def figures(self) -> Mapping[str, Any]:
        """What the decisive stage reported."""
        assert self.decisive.result is not None
        return self.decisive.result

    @property
    def time(self) -> datetime:
        """When the decisive stage was begun, in UTC.

        Raises:
            RunCorrupted: its manifest does not tell.
        """
        manifest = self.decisive.path / "manifest.json"
        try:
            return datetime.fromisoformat(json.loads(manifest.read_text())["created"]).astimezone(UTC)
        except (OSError, ValueError, KeyError, TypeError):
            raise RunCorrupted(f"{manifest} does not say when it was made. Restore it, or evaluate again") from None


def read_evaluation(folder: Path) -> list[Evaluated]:
    """All benchmarks of an evaluation, those of answers first.

    Args:
        folder: `--out` folder of `lightr evaluate`.

    Raises:
        DataError: there are none, or some without verdicts.
        RunCorrupted: some stage is unfinished or damaged.
    """
    found = sorted(folder.glob("*/*/answers/manifest.json")) + sorted(folder.glob("*/*/choices/manifest.json"))
    if not found:
        raise DataError(f"{folder} holds no evaluation; name the folder that was given to `lightr evaluate --out`")
    return [_read(manifest.parent) for manifest in found]


def _read(path: Path) -> Evaluated:
    place = path.parent
    benchmark = BENCHMARKS.get(place.name)
    if benchmark is None:
        raise DataError(f"{place}: there is no benchmark {place.name}, so nobody can tell what this is. Remove it")
    fingerprint, stage = read_stage(path)
    how = fingerprint.get("how", {})
    settings = {name: value for part in (fingerprint, *how.values()) for name, value in part.items() if name != "how"}
    judges = [judge for judge in JUDGES if (place / judge / "manifest.json").exists()]
    if path.name == "answers" and not judges:
        raise DataError(f"{place} has no verdicts of any judge; make them with `lightr evaluate`")
    judged = {judge: read_stage(place / judge) for judge in judges}
    judged_how = {judge: (facts.get("how", {}), verdicts) for judge, (facts, verdicts) in judged.items()}
    return Evaluated(benchmark, place.parent.name, how, settings, stage, judged_how)
