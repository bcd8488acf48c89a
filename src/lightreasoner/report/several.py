"""Several runs beside one another: the settings that differ, paired differences of accuracy, curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lightreasoner.config import RoundsConfig
from lightreasoner.config.base import Role, role_of
from lightreasoner.data.benchmarks import title_of
from lightreasoner.errors import ConfigError
from lightreasoner.evaluation.comparison import Prompts, compare_several
from lightreasoner.evaluation.statistics import Interval
from lightreasoner.report.model import Report
from lightreasoner.report.reading import RunFolder, open_run, read_run
from lightreasoner.report.tables import p_value
from lightreasoner.report.verdict import LEVEL
from lightreasoner.runs.differences import HASH

Row = Mapping[str, Any]
ABSENT = "–"


@dataclass(frozen=True)
class Several:
    """Several runs, compared with the first of them.

    Attributes:
        names: of the runs, as the user named their folders.
        reports: of each run.
        settings: those that differ, by dotted name, with the value of each run; `ABSENT` where a run has no such one.
        tests: by run, without the first, the result of `evaluation.comparison.compare_several`.
        missing: what cannot be compared, one sentence each.
    """

    names: tuple[str, ...]
    reports: tuple[Report, ...]
    settings: Mapping[str, tuple[Any, ...]]
    tests: Mapping[str, Row]
    missing: tuple[str, ...]

    @property
    def warnings(self) -> list[str]:
        """Those of the comparisons, with the name of the run."""
        return [f"{name}: {text}" for name, test in self.tests.items() for text in test["warnings"]]

    @property
    def rows(self) -> list[tuple[int, str, Row]]:
        """Differences from the first run: place of the run, benchmark in words, row of the comparison."""
        return [
            (self.names.index(name), _benchmark(row), row)
            for name, test in self.tests.items()
            for row in (*test["benchmarks"], *test["overall"])
        ]

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        found = [row for test in self.tests.values() if (row := _main(test))]
        first = f"{len(self.names)} runs, the others compared with {self.names[0]}"
        if not found:
            return f"{first}: there is no evaluation that they share."
        better, worse = (sum(row["p_holm"] < LEVEL and sign * row["gain"] > 0 for row in found) for sign in (1, -1))
        return (
            f"{first}: {better} better, {worse} worse, {len(found) - better - worse} without a detectable difference "
            f"in accuracy."
        )

    @property
    def sentences(self) -> list[str]:
        """The result of each run but the first."""
        return [_sentence(name, self.names[0], row) for name, test in self.tests.items() if (row := _main(test))]

    def as_dict(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        return {
            "runs": [{"name": name, **one.as_dict()} for name, one in zip(self.names, self.reports, strict=True)],
            "settings": {name: list(values) for name, values in self.settings.items()},
            "comparisons": dict(self.tests),
            "missing": list(self.missing),
        }


def read_several(paths: Sequence[Path]) -> Several:
    """Compare runs with the first of them.

    Raises:
        ConfigError: a run is named twice.
        DataError: a folder holds nothing to report.
    """
    names = tuple(map(str, paths))
    resolved = [path.resolve() for path in paths]
    if twice := next((name for name, path in zip(names, resolved, strict=True) if resolved.count(path) > 1), None):
        raise ConfigError(f"{twice} is given twice, and a run does not differ from itself; name each run once")
    runs = [open_run(path) for path in paths]
    reports = tuple(read_run(run, run.texts) for run in runs)
    tests, missing = _tests(runs)
    return Several(names, reports, _differing([one.settings for one in reports]), tests, missing)


def _tests(runs: Sequence[RunFolder]) -> tuple[dict[str, Row], tuple[str, ...]]:
    """The comparisons of the fine-tuned models, and why there are none."""
    first, *others = runs
    if not first.after:
        return {}, (f"differences of accuracy: {first.path}, the first run, has no evaluation after fine-tuning",)
    folders = {str(run.path): folder for run in runs if run.after and (folder := run.after_folder)}
    judges = {run.judge for run in runs if run.after}
    found = compare_several(list(folders.values()), judge=judges.pop() if len(judges) == 1 else None)
    lacking = [run.path for run in others if not run.after]
    missing = tuple(f"accuracy: {path} has no evaluation after fine-tuning" for path in lacking)
    return dict(zip(list(folders)[1:], found, strict=True)), missing


def _differing(settings: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """The settings that decide results and differ, by name; of hashes that differ, the first digits."""
    usual = [{_common_name(name): value for name, value in one.items()} for one in settings]
    found = {}
    for name in dict.fromkeys(name for one in usual for name in one):
        role = _role(name)
        has = sum(name in one for one in usual)
        if role in (Role.PLACE, Role.SPEED) or (role is None and has < len(usual)):
            continue
        values = tuple(_shortened(one.get(name, _default(name))) for one in usual)
        if any(value != values[0] for value in values):
            found[name] = values
    return found


def _common_name(name: str) -> str:
    """The name in a recipe of a setting that is written down by a stage."""
    stage, _, rest = name.partition(".")
    aliases = {"model": "expert", "model_revision": "expert_revision"} if stage == "finetune" else {}
    rest = aliases.get(rest, rest)
    return rest if stage in ("sample", "finetune") and rest in RoundsConfig.model_fields else name


def _role(name: str) -> Role | None:
    """The role of a setting; None where the name is none of a recipe."""
    section: type[BaseModel] = RoundsConfig
    *sections, last = name.split(".")
    for part in sections:
        kind = section.model_fields[part].annotation if part in section.model_fields else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return None
        section = kind
    return role_of(section.model_fields[last]) if last in section.model_fields else None


def _default(name: str) -> Any:
    """What a recipe without a selection means by its settings; None for others, which a folder may not know."""
    section, _, rest = name.partition(".")
    known = RoundsConfig.model_fields["select"].default
    return getattr(known, rest) if section == "select" and hasattr(known, rest) else ABSENT


def _shortened(value: Any) -> Any:
    return f"{value[:8]}…" if isinstance(value, str) and HASH.fullmatch(value) else value


def _main(test: Row) -> Row | None:
    return next(iter((*test["overall"], *test["benchmarks"])), None)


def _benchmark(row: Row) -> str:
    return f"mean of {row['benchmarks']}" if "benchmarks" in row else title_of(row["benchmark"])


def _sentence(name: str, first: str, row: Row) -> str:
    gain = Interval.of(row, "gain").percent
    shown = "" if row["p_holm"] < LEVEL else "; no difference is shown"
    where = f"{_benchmark(row)}, {Prompts(*row['prompts'])}"
    return (
        f"{name}: {100 * row['after']:.1f} % on {where}, {gain.value:+.1f} points against {first} (95 % interval "
        f"{gain.ends('+.1f')}, corrected p = {p_value(row['p_holm'])}{shown})."
    )
