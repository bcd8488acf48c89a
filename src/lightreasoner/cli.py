"""The command line. Each command declares its flags, its help, and the function that runs it.

To add a command, declare it with `@command` below. The help shows commands in the order of this file. Functions are
imported only when they run, so `--help` needs no torch.

Data goes to stdout (JSON with `--json`), everything else to stderr. Exit code 0 on success, 1 for a failure, 2 for
wrong usage, 128 + number (130, 138, 143) when a signal interrupted the command.
"""

import inspect
import io
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import metadata
from itertools import count
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any, Literal, TypeVar, get_args

from cyclopts import App, CycloptsError, Group, Parameter
from pydantic import PlainValidator

from lightreasoner import config as cfg
from lightreasoner.config_base import Config
from lightreasoner.errors import INTERRUPTED, STOP_SIGNALS, LightReasonerError
from lightreasoner.recipes import copy_recipe, has_section, recipe_names, recipe_text, resolve
from lightreasoner.runs.progress import say
from lightreasoner.runs.terminal import visible

C = TypeVar("C", bound=Config)
Declaration = TypeVar("Declaration", bound=Callable[..., Any])

# All fields of a config as flags. cyclopts passes on the given ones as a dict, unchecked: `_checked` adds the recipe.
Flags = Annotated[C, Parameter(name="*"), PlainValidator(dict)]
Json = Annotated[bool, Parameter(name="--json", help="Print the result as JSON.")]
DryRun = Annotated[bool, Parameter(name="--dry-run", help="Print the resolved settings as JSON and exit.")]
Recipe = Annotated[str | None, Parameter(name="--config", help="Bundled recipe or .yaml file; flags override it.")]

TRAIN, CHECK, LOOK, BEYOND, DATA, OPTIONS = map(
    Group.create_ordered,
    ("Train and evaluate", "Check and plan", "Look at results", "Baselines and studies", "Data", "Options"),
)
_order = count()

app = App(
    name="lightr",
    help="Improve a language model's reasoning without labels, by contrasting it with a weaker model.",
    version=lambda: metadata.version("lightreasoner"),
    default_parameter=Parameter(consume_multiple=True, negative=()),
    suppress_keyboard_interrupt=False,  # `main` reports it
)
app["--help"].group = app["--version"].group = OPTIONS


def command(
    name: str,
    target: str | None = None,
    *,
    of: App = app,
    group: Group | None = None,
    config: type[Config] | None = None,
    lines: str | None = None,
    writes: bool = True,
) -> Callable[[Declaration], Declaration]:
    """Register the decorated function as a command: its parameters are the flags, its docstring is the help.

    A parameter `config` adds --config and --dry-run. Parameters named like a field of the config go into it. A target
    adds --json; it gets the checked config and the remaining arguments.

    Args:
        name: name on the command line.
        target: "module:function" of this package that runs the command; without one, the decorated function does.
        of: app that the command belongs to.
        group: title in the help.
        config: class of the checked config, if not the one in the annotation.
        lines: "module:function" that turns the result into lines for people; by default one `key: value` each.
        writes: refuse early if another process holds the `out` folder of the config.
    """

    def register(declared: Declaration) -> Declaration:
        signature = inspect.signature(declared)
        kind = config
        if kind is None and "config" in signature.parameters:
            kind = get_args(signature.parameters["config"].annotation)[0]
        flags = {name: _with_help(flag, kind) for name, flag in signature.parameters.items()}
        if kind is not None:
            flags["config"] = flags["config"].replace(default=None)  # no flags given
            flags["recipe"] = _flag("recipe", None, Annotated[Recipe, Parameter(show=has_section(kind))])
            flags["dry_run"] = _flag("dry_run", False, DryRun)
        if target is not None:
            flags.setdefault("as_json", _flag("as_json", False, Json))
        all_flags = signature.replace(parameters=list(flags.values()))

        def execute(*args: Any, **kwargs: Any) -> None:
            bound = all_flags.bind(*args, **kwargs)
            bound.apply_defaults()
            given, passed = bound.arguments, set(signature.parameters)
            is_first = os.environ.get("RANK", "0") == "0"  # the process of torchrun that holds the folder and prints
            if kind is not None:
                given["config"] = _checked(kind, given)
                if given["dry_run"]:
                    _print(given["config"].model_dump(mode="json"), as_json=True)
                    return
                if writes and is_first:
                    _refuse_if_held(given["config"])
                passed -= set(kind.model_fields if target else ())
            function = resolve_name(f"lightreasoner.{target}") if target else declared
            result = function(**{name: given[name] for name in passed})
            if is_first:
                _print(result, given.get("as_json", False), lines)

        execute.__doc__, execute.__signature__ = declared.__doc__, all_flags  # type: ignore[attr-defined]
        of.command(execute, name=name, group=group, sort_key=next(_order))
        return declared

    return register


def _flag(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _with_help(parameter: inspect.Parameter, kind: type[Config] | None) -> inspect.Parameter:
    """The parameter with the help of the setting that has its name, if there is one."""
    field = kind.model_fields.get(parameter.name) if kind is not None else None
    if field is None:
        return parameter
    return parameter.replace(annotation=Annotated[parameter.annotation, Parameter(help=field.description)])


def _checked(kind: type[C], given: Mapping[str, Any]) -> C:
    """The config of a command: defaults < recipe < flags."""
    flags = {**(given["config"] or {}), **{name: given[name] for name in given if name in kind.model_fields}}
    recipe = given["recipe"]
    if kind is cfg.RunConfig and recipe is None and not {"expert", "amateur"} & flags.keys():
        recipe = "miniature"
        say(f"no --config and no --expert: using the bundled recipe {recipe}")
    return resolve(kind, flags, recipe)


def _refuse_if_held(config: Config) -> None:
    """Refuse a folder in use before the import of torch, which takes seconds."""
    folder: Path | None = getattr(config, "out", None)
    if folder is not None:
        from lightreasoner.runs.locks import refuse_if_held

        refuse_if_held(folder.parent if isinstance(config, cfg.MergeConfig) else folder)


def _print(result: Any, as_json: bool, lines: str | None = None) -> None:
    """Print a result to stdout: text as it is, data as JSON, or as lines for people."""
    if result is None:
        return
    if isinstance(result, str | list):
        text = result.removesuffix("\n") if isinstance(result, str) else "\n".join(result)
    elif as_json:
        text = json.dumps(result, indent=2, ensure_ascii=False)
    elif lines is not None:
        text = "\n".join(resolve_name(f"lightreasoner.{lines}")(result))
    else:
        text = "\n".join(f"{key}: {value}" for key, value in result.items())
    print(visible(text))


@command("run", "pipeline:run", group=TRAIN, lines="report.tables:run_lines")
def run(*, config: Flags[cfg.RunConfig]) -> None:
    """Sample, fine-tune, merge and evaluate in one run folder, resuming what is unfinished.

    Without --config and --expert it runs the bundled recipe miniature, which needs no download and no GPU. Flags
    override the recipe; settings of a stage are dotted: --sample.max-questions 200 --finetune.steps 500.
    """


@command("sample", "samples.sampling:sample", group=TRAIN)
def sample(*, config: Flags[cfg.SampleConfig]) -> None:
    """Stage 1: generate with the expert, score both models on the same prefixes, keep and label informative steps."""


@command("finetune", "training.finetuning:finetune", group=TRAIN)
def finetune(*, config: Flags[cfg.FinetuneConfig]) -> None:
    """Stage 2: fine-tune the expert on the stored labels with LoRA."""


@command("merge", "training.merging:merge", group=TRAIN)
def merge(*, config: Flags[cfg.MergeConfig]) -> None:
    """Stage 3: merge base and adapter into a plain model folder, then read it back and check it."""


@command("evaluate", "evaluation.evaluate:evaluate", group=TRAIN, lines="report.tables:evaluation_lines")
def evaluate(*, config: Flags[cfg.EvaluateConfig]) -> None:
    """Stage 4: measure accuracy on benchmarks with 95 % intervals; by default greedy pass@1."""


@command("doctor", group=CHECK)
def doctor(
    *, expert: str | None = None, amateur: str | None = None, expert_revision: str | None = None, as_json: Json = False
) -> None:
    """Check this machine, and that two models share a vocabulary. Exit code 1 if a check fails.

    Args:
        expert: model to check: a Hub id, a local folder, a .gguf file, or miniature/NAME.
        amateur: weaker model that should share its vocabulary.
        expert_revision: branch, tag or commit of a Hub expert.
    """
    from lightreasoner.doctor import examine

    result = examine(expert, amateur, expert_revision)
    _print(result, as_json, "doctor:finding_lines")
    if not result["fit"]:
        sys.exit(1)


@command("plan", "plan:plan", group=CHECK, lines="plan:plan_lines", writes=False)
def plan(*, config: Flags[cfg.RunConfig], flops: float = 50e12, prompt_tokens: int = 128) -> None:
    """Estimate the FLOP, time, memory and disk of `lightr run` with these settings. Loads no weights.

    Without --config and --expert it plans the bundled recipe miniature.

    Args:
        flops: sustained floating-point operations per second of this machine.
        prompt_tokens: mean length of the prompts in tokens.
    """


@command("report", "report:write", group=LOOK)
def report(
    run_folder: Path,
    *,
    out: Path | None = None,
    as_markdown: Annotated[bool, Parameter(name="--markdown")] = False,
    figures: Path | None = None,
    as_json: Json = False,
) -> None:
    """Write a run folder as one HTML page: accuracies, cost, and every rollout token by token.

    Args:
        run_folder: run folder, or a folder of `lightr samples import`.
        out: file to write; by default report.html in the run folder, and stdout for Markdown and JSON.
        as_markdown: write Markdown instead of HTML, without the rollouts.
        figures: write the paper's figures of this run to this folder instead, as SVG and PNG with their data.
    """


@command("inspect", group=LOOK, config=cfg.InspectConfig)
def inspect_question(
    question: str, *, config: Flags[cfg.InspectSettings], as_json: Json = False
) -> dict[str, Any] | None:
    """Sample one response and show token by token where expert and amateur differ, in the terminal or as HTML."""
    from lightreasoner.inspection import inspect

    assert isinstance(config, cfg.InspectConfig)
    result = inspect(config, show=not as_json)
    return result if as_json or config.html is not None else None


@command("compare", "evaluation.comparison:compare", group=LOOK, lines="report.tables:comparison_lines")
def compare(before: Path, after: Path, *, judge: cfg.JudgeName | None = None) -> None:
    """Compare two evaluations item by item: gains with intervals, exact McNemar tests with Holm's correction.

    Args:
        before: --out folder of the first evaluation.
        after: --out folder of the second evaluation.
        judge: judge whose verdicts are compared; by default math-verify where it has judged.
    """


@command("baseline", "samples.baselines:baseline", group=BEYOND)
def baseline(kind: cfg.BaselineKind, *, config: Flags[cfg.BaselineConfig]) -> None:
    """Make a baseline's training data for `lightr finetune`: all tokens of whole answers, without a contrast."""


@command("study", "studies.study:study", group=BEYOND, lines="report.tables:study_lines")
def study(
    name: str,
    *,
    recipes: Annotated[tuple[str, ...], Parameter(name="--recipe")] = (),
    out: Path = Path("runs/studies"),
    seeds: int | None = None,
    quick: bool = False,
    workers: int | None = None,
    page_file: Annotated[Path | None, Parameter(name="--write")] = None,
) -> None:
    """Reproduce a table or figure of the paper: run what is missing, write Markdown, CSV, JSON and pictures.

    Args:
        name: table1 … table8, figure1 … figure9, selection, sweeps, or all.
        recipes: bundled name or .yaml file; further ones add rows to Table 1. Default: the two of the miniature.
        out: folder of all studies, which share their runs.
        seeds: seeds per setting; by default each study's own number.
        quick: run everything smaller, in minutes, as a check.
        workers: worker processes; by default one per core, and one on a GPU.
        page_file: file for all reports as one page, next to the paper's figures.
    """


samples = App(name="samples", help="Select, import and export samples.", group=DATA, sort_key=next(_order))
answers = App(name="answers", help="Import and export evaluation answers.", group=DATA, sort_key=next(_order))
bundled = App(name="recipes", help="List, show and copy the bundled recipes.", group=DATA, sort_key=next(_order))
for sub_app in (samples, answers, bundled):
    app.command(sub_app)


@command("benchmarks", "report.tables:benchmark_rows", group=DATA, lines="report.tables:benchmark_lines")
def benchmarks() -> None:
    """List the benchmarks: size, metric, source, and whether a published figure has been reproduced."""


@command("grade", group=DATA)
def grade(
    file: Path,
    *,
    judge: cfg.JudgeName = "math-verify",
    out: Path | None = None,
    seconds: float = 10.0,
    megabytes: int = 1024,
    workers: int | None = None,
) -> None:
    """Judge answers from any source, one verdict per line.

    Args:
        file: JSONL file with the fields gold and text, and optionally benchmark, in each line.
        judge: math-verify compares answers as mathematics; toolkit decides as the paper's evaluation toolkit.
        out: JSONL file to write, which must not exist; by default the verdicts go to stdout.
        seconds: time limit of the judge per answer.
        megabytes: memory limit of each judge process.
        workers: judge processes; by default one per processor core.
    """
    from lightreasoner.evaluation.grade_file import grade_file

    counts = grade_file(file, out, judge=judge, seconds=seconds, megabytes=megabytes, workers=workers)
    say(", ".join(f"{number} {verdict.replace('_', ' ')}" for verdict, number in counts.items()))


@command("select", "samples.selecting:select", of=samples, config=cfg.SelectConfig)
def select_samples(source: Path, out: Path, *, config: Flags[cfg.SelectSettings], seed: int = 42) -> None:
    """Re-select steps or relabel existing samples without running a model."""


@command("import", "samples.jsonl:import_samples", of=samples)
def import_samples(
    file: Path,
    out: Path,
    *,
    expert: str,
    expert_revision: str | None = None,
    member: str | None = None,
    questions: Path | None = None,
    question_field: str | None = None,
    cue: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Import samples in the authors' JSONL format into a folder that `lightr finetune --data` reads.

    Args:
        file: JSONL file of samples, or a .zip that holds one.
        out: folder to write.
        expert: model that was sampled; its tokenizer and chat template give the token ids.
        expert_revision: branch, tag or commit of a Hub expert.
        member: file inside the .zip; by default the only one with the name of a text file.
        questions: file with the questions, if the samples' prompt_id is an id and not the question itself.
        question_field: field of that file that holds the question.
        cue: system message that the samples were made with; the authors' script used "Please reason step by step."
        trust_remote_code: run Python code that the model repository ships.
    """


@command("export", "samples.jsonl:export_samples", of=samples)
def export_samples(run_folder: Path, file: Path, *, trust_remote_code: bool = False) -> None:
    """Export the kept steps of a run as JSONL, one step per line, with the authors' fields and ours.

    Args:
        run_folder: run folder of `lightr sample`.
        file: JSONL file to write; must not exist.
        trust_remote_code: run Python code that the model repository ships.
    """


@command("import", "evaluation.toolkit_import:import_toolkit", of=answers)
def import_answers(
    file: Path, out: Path, *, benchmark: cfg.BenchmarkName, prompt: cfg.PromptKind = "chat", model: str | None = None
) -> None:
    """Import an output file of the Qwen2.5-Math toolkit into an evaluation folder that `lightr compare` reads.

    Args:
        file: JSONL file that the toolkit wrote with --save_outputs.
        out: evaluation folder to write into.
        benchmark: benchmark that the file answers.
        prompt: kind of the toolkit's prompts; qwen25-math-cot is chat, cot and direct are plain.
        model: name of the model, which the file does not hold.
    """


@command("export", "evaluation.exports:export_answers", of=answers)
def export_answers(evaluation: Path, out: Path, *, to: Literal["lm-eval", "hub"]) -> None:
    """Export an evaluation in the format of another tool.

    Args:
        evaluation: --out folder of `lightr evaluate`.
        out: folder to write into; existing files are never overwritten.
        to: lm-eval for the logs of lm-evaluation-harness, hub for the evaluation results of a model repository.
    """


command("ls", of=bundled)(recipe_names)
command("show", of=bundled)(recipe_text)
command("copy", of=bundled)(copy_recipe)


def main() -> None:
    """Entry point of `lightr` and `lightreasoner`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without Greek letters must not fail
    if not sys.warnoptions:
        warnings.simplefilter("ignore", FutureWarning)  # of one library about another; not for the user to fix
    for number in set(STOP_SIGNALS) - {signal.SIGINT}:  # Python turns SIGINT into KeyboardInterrupt
        signal.signal(number, _leave)
    try:
        app(sys.argv[1:], exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except LightReasonerError as error:
        _fail(str(error), error.exit_code)
    except CycloptsError as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail(INTERRUPTED, 130)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # if stdout failed, closing it must not fail again
        if isinstance(error, BrokenPipeError):
            sys.exit(1)
        _fail(f"cannot read or write {error.filename or 'the output'}: {error.strerror or error}", 1)


def _fail(message: str, exit_code: int) -> None:
    say(f"lightr: {' '.join(message.split())}")
    sys.exit(exit_code)


def _leave(number: int, *_: object) -> None:
    """Signal handler for where no stage has its own. No `print`: the signal may interrupt one."""
    os.write(2, f"lightr: {INTERRUPTED}\n".encode())
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
