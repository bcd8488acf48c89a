"""The experiment of docs/real-pair.md: run its arms, and print its tables.

    python bench/real_pair.py run --expert E.gguf --amateur A.gguf --out DIR [--data-dir DATA]
    python bench/real_pair.py tables --out DIR

`run` takes the commands from the first block below "## Commands" of the page, in their order, so that what is run and
what is written cannot differ. Every command resumes; after an interruption, run it again. `tables` prints the tests of
the protocol as Markdown, for the arms that are finished, and writes `DIR/changed.txt`: of each tuned arm the first 20
answers that became right and the first 20 that became wrong, in full, to be read.
"""

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lightreasoner.data.benchmarks import Benchmark
from lightreasoner.errors import LightReasonerError
from lightreasoner.evaluation.comparison import read_sides
from lightreasoner.evaluation.folder import read_evaluation
from lightreasoner.evaluation.statistics import BenchmarkComparison, compare_pairs, holm, wilson_interval
from lightreasoner.grading.extraction import last_boxed
from lightreasoner.runs.records import Answer

PAGE = Path(__file__).parents[1] / "docs" / "real-pair.md"
FOLDER = "real"  # of the page's commands
UNTUNED = "method-1/evaluate/expert"
METHOD = ("method-1/evaluate/merged", "method-2/evaluate/merged")
OTHERS = {
    "best label-free setting": "best-1/evaluate/merged",
    "rejection SFT": "sft-1/evaluate/merged",
    "no contrast": "own-1/evaluate/merged",
    "contrastive decoding": "decoding",
}
SECONDARY = {"MATH-500": "math500", "ASDiv": "asdiv"}
READ = 20  # changed answers of each kind
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def commands(page: str, expert: str, amateur: str, out: Path, data_dir: Path | None) -> Iterator[list[str]]:
    """The commands of the page as arguments, with these models and folders."""
    block = page.partition("\n## Commands\n")[2].split("```\n")[1].replace("\\\n", " ")
    named = {"E.gguf": expert, "A.gguf": amateur}
    for line in block.splitlines():
        if not (words := shlex.split(line, comments=True)):
            continue
        words = [named.get(word, word) for word in words]
        words = [
            str(out / word.removeprefix(f"{FOLDER}/")) if word.startswith(f"{FOLDER}/") else word for word in words
        ]
        reads = words[1] in {"run", "sample", "baseline", "evaluate"}
        yield [*words, "--data-dir", str(data_dir)] if reads and data_dir is not None else words


def run(options: argparse.Namespace) -> int:
    """Run all arms; the exit status of the first command that fails."""
    page = PAGE.read_text(encoding="utf-8")
    for words in commands(page, options.expert, options.amateur, options.out, options.data_dir):
        print("$", shlex.join(words), flush=True)
        if not options.dry_run:
            # The process's own interpreter, not the `lightr` of another environment.
            code = subprocess.run([sys.executable, "-m", "lightreasoner", *words[1:]], check=False).returncode
            if code:
                return code
    return 0


class Arm(NamedTuple):
    """The answers of one model to one benchmark."""

    benchmark: Benchmark
    scores: Mapping[str, float]
    answers: Mapping[str, Answer]

    def share(self, items: Sequence[str], holds: str) -> float:
        """Share of these items whose answer is so, in %."""
        tests = {"boxed": lambda a: last_boxed(a.output) is not None, "cut off": lambda a: a.finish == "length"}
        return 100 * sum(tests[holds](self.answers[item]) for item in items) / len(items)

    def lenient(self, item: str) -> float:
        """Score of the item's answer if its last number counts where nothing is boxed."""
        answer = self.answers[item]
        if last_boxed(answer.output) is not None or not (numbers := _NUMBER.findall(answer.output)):
            return self.scores[item]
        return float(_value(numbers[-1]) == _value(answer.gold))


def _value(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def read(folder: Path) -> Arm | None:
    """A finished evaluation of one benchmark; None, with a message, if there is none."""
    try:
        (side,), (evaluated,) = read_sides(folder, None), read_evaluation(folder)
    except LightReasonerError as error:
        print(f"left out: {error}", file=sys.stderr)
        return None
    rows = (row for table in evaluated.stage.tables("answers") for row in Answer.rows(table))
    return Arm(evaluated.benchmark, side.scores, {row.question_id: row for row in rows})


def compared(before: Arm, after: Arm) -> BenchmarkComparison:
    """Both arms on the items that `after` has answered."""
    return compare_pairs([before.scores[item] for item in after.scores], list(after.scores.values()))


def row(name: str, found: BenchmarkComparison, p_holm: float | None = None) -> str:
    """One line of a table."""
    cells = [name, str(found.total), f"{100 * found.before:.1f}", f"{100 * found.after:.1f}"]
    gain = found.gain
    cells += [f"{100 * gain.value:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"]
    cells += [f"{found.gained:g} / {found.lost:g}", f"{found.p_value:.2g}", "–" if p_holm is None else f"{p_holm:.2g}"]
    detectable = found.minimal_detectable
    return "| " + " | ".join([*cells, "–" if detectable is None else f"{100 * detectable:.1f}"]) + " |"


HEAD = """
| comparison | n | before | after | gain (95 %) | gained / lost | p | p, Holm | smallest effect |
|---|--:|--:|--:|--:|--:|--:|--:|--:|"""


def corrected(found: Mapping[str, BenchmarkComparison], tests: int) -> Iterator[str]:
    """Lines with Holm's correction for this number of tests, those of missing arms included."""
    values = [one.p_value for one in found.values()]
    for (name, one), p_holm in zip(found.items(), holm([*values, *[1.0] * (tests - len(values))]), strict=False):
        yield row(name, one, p_holm)


def forms(arms: Mapping[str, Arm], base: Arm) -> Iterator[str]:
    """Length and format of each arm's answers, and its gain under the lenient judgement."""
    yield "\n| arm | tokens, mean | cut off | boxed | accuracy | lenient | lenient gain (95 %) | p |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    for name, arm in arms.items():
        items = list(arm.scores)
        tokens = sum(len(arm.answers[item].output_ids) for item in items) / len(items)
        lenient = compare_pairs([base.lenient(item) for item in items], [arm.lenient(item) for item in items])
        gain = lenient.gain
        ends = f"{100 * gain.value:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
        accuracy = wilson_interval(round(sum(arm.scores.values())), len(items))
        yield (
            f"| {name} | {tokens:.0f} | {arm.share(items, 'cut off'):.1f} % | {arm.share(items, 'boxed'):.1f} % "
            f"| {100 * accuracy.value:.1f} | {100 * lenient.after:.1f} | {ends} | {lenient.p_value:.2g} |"
        )


def changed(name: str, before: Arm, after: Arm) -> Iterator[str]:
    """The first answers that became right, and the first that became wrong, in full."""
    for what, sign in (("right", 1), ("wrong", -1)):
        items = [item for item in after.scores if sign * (after.scores[item] - before.scores[item]) > 0][:READ]
        for number, item in enumerate(items, 1):
            of_before, of_after = before.answers[item], after.answers[item]
            yield f"===== {name}: became {what}, {number} of {len(items)}; {item}; gold {of_after.gold}"
            yield of_after.question
            for side, answer in (("before", of_before), ("after", of_after)):
                yield f"----- {side} ({len(answer.output_ids)} tokens, {answer.finish})\n{answer.output}"


def tables(out: Path) -> Iterator[str]:
    """The tables of the protocol, for the arms that are finished."""
    base = read(out / UNTUNED)
    if base is None:
        yield f"{out / UNTUNED} is not finished"
        return
    seeds = {seed: arm for seed, folder in enumerate(METHOD, 1) if (arm := read(out / folder)) is not None}
    others = {name: arm for name, folder in OTHERS.items() if (arm := read(out / folder)) is not None}
    yield f"Untuned expert: {wilson_interval(round(sum(base.scores.values())), len(base.scores)):.3f}\n\n## Method"
    yield HEAD.strip()
    if len(seeds) == len(METHOD):
        means = [sum(arm.scores[item] for arm in seeds.values()) / len(seeds) for item in base.scores]
        yield row("primary: mean of both seeds", compare_pairs(list(base.scores.values()), means, samples=len(seeds)))
    for seed, arm in seeds.items():
        yield row(f"seed {seed}", compared(base, arm))
    pairs = {f"untuned expert → {name}": compared(base, arm) for name, arm in others.items()}
    if 1 in seeds:
        pairs |= {f"method, seed 1 → {name}": compared(seeds[1], arm) for name, arm in others.items()}
    if pairs:
        yield f"\n## Other arms{HEAD}"
        yield from corrected(pairs, 2 * len(OTHERS))
    secondary = {}
    for benchmark, part in SECONDARY.items():
        untuned = read(out / "base" / part)
        for name, folder in (("method, seed 1", "method-1"), ("best label-free setting", "best-1")):
            tuned = read(out / folder / part)
            if untuned is not None and tuned is not None:
                secondary[f"{benchmark}: untuned expert → {name}"] = compared(untuned, tuned)
    if secondary:
        yield f"\n## Other benchmarks{HEAD}"
        yield from corrected(secondary, 2 * len(SECONDARY))
    arms = {f"method, seed {seed}": arm for seed, arm in seeds.items()} | others
    yield "\n## Form of the answers"
    yield from forms({"untuned expert": base, **arms}, base)
    text = "\n".join(line for name, arm in arms.items() for line in changed(name, base, arm))
    (out / "changed.txt").write_text(text + "\n", encoding="utf-8")
    yield f"\n{out / 'changed.txt'} has the changed answers to read"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    does = parser.add_subparsers(dest="does", required=True)
    running = does.add_parser("run")
    running.add_argument("--expert", required=True, help="GGUF file, folder or Hub id")
    running.add_argument("--amateur", required=True)
    running.add_argument("--data-dir", type=Path, help="folder with NAME/SPLIT.jsonl; default: the Hub")
    running.add_argument("--dry-run", action="store_true", help="print the commands only")
    for one in (running, does.add_parser("tables")):
        one.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.does == "run":
        return run(options)
    print("\n".join(tables(options.out)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
