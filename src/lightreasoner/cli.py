"""The command line: a thin skin over the stages, which are imported only when they run.

Data goes to stdout (JSON with `--json`), everything else to stderr. Exit code 0 only if the promise was kept, 1 for
a failure, 2 for wrong usage, 128 + its number (130, 138, 143) when stopped by a signal.
"""

import io
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from cyclopts import App, CycloptsError, Parameter
from pydantic import ValidationError, create_model
from pydantic.fields import FieldInfo

from lightreasoner.config import (
    BaselineConfig,
    BaselineKind,
    BenchmarkName,
    Config,
    EvaluateConfig,
    FinetuneConfig,
    InspectConfig,
    InspectSettings,
    JudgeName,
    MergeConfig,
    PromptKind,
    RunConfig,
    SampleConfig,
    SelectConfig,
    SelectSettings,
    explain,
)
from lightreasoner.errors import STOP_SIGNALS, ConfigError, LightReasonerError
from lightreasoner.recipes import load_recipe, recipe_names, recipe_text
from lightreasoner.runs.terminal import visible

C = TypeVar("C", bound=Config)
Lines = Callable[[Mapping[str, Any]], list[str]]  # a result as lines for a person

DEFAULT_RECIPE = "miniature"

STOPPED = "stopped; what was committed stays, and the same command continues from there"

app = App(
    name="lightr",
    help="Make a language model reason better without labels, by what it knows and a weaker model does not.",
    version=lambda: metadata.version("lightreasoner"),
    default_parameter=Parameter(consume_multiple=True, negative=()),
    suppress_keyboard_interrupt=False,  # `main` says what stays
)
samples_app = App(name="samples", help="Exchange samples with other tools as JSONL.")
answers_app = App(name="answers", help="Exchange evaluation answers with other tools.")
recipes_app = App(name="recipes", help="Bundled recipes.")
app.command(samples_app)
app.command(answers_app)
app.command(recipes_app)


@cache
def _flags(config: type[Config]) -> Any:
    """The config with every field optional and nothing checked yet: recipes come in between, `checked` comes last."""
    fields: dict[str, Any] = {}
    for name, info in config.model_fields.items():
        kind: Any = info.annotation
        section = isinstance(kind, type) and issubclass(kind, Config)
        default = None if info.is_required() else info.default
        fields[name] = (
            _flags(kind) if section else kind | None if default is None else kind,
            FieldInfo(default=_flags(kind)() if section else default, description=info.description),
        )
    return create_model(config.__name__, __base__=Config, **fields)


if TYPE_CHECKING:
    from lightreasoner.config import BaselineConfig as BaselineFlags
    from lightreasoner.config import EvaluateConfig as EvaluateFlags
    from lightreasoner.config import FinetuneConfig as FinetuneFlags
    from lightreasoner.config import InspectSettings as InspectFlags
    from lightreasoner.config import MergeConfig as MergeFlags
    from lightreasoner.config import RunConfig as RunFlags
    from lightreasoner.config import SampleConfig as SampleFlags
    from lightreasoner.config import SelectSettings as SelectFlags
else:
    SampleFlags, FinetuneFlags, MergeFlags = _flags(SampleConfig), _flags(FinetuneConfig), _flags(MergeConfig)
    EvaluateFlags, RunFlags, SelectFlags = _flags(EvaluateConfig), _flags(RunConfig), _flags(SelectSettings)
    BaselineFlags = _flags(BaselineConfig)
    InspectFlags = _flags(InspectSettings)

Flat = Parameter(name="*")
Json = Annotated[bool, Parameter(name="--json", help="Print the result as JSON.")]


@dataclass(frozen=True)
class Options:
    """What every command that runs a stage understands beside its settings."""

    recipe: Annotated[
        str | None, Parameter(name="--config", help="Recipe: a bundled name or a .yaml file; flags win over it.")
    ] = None
    dry_run: Annotated[bool, Parameter(name="--dry-run", help="Print the resolved settings and stop.")] = False
    as_json: Json = False


NO_OPTIONS = Options()


@app.command
def run(*, flags: Annotated[RunFlags | None, Flat] = None, options: Annotated[Options, Flat] = NO_OPTIONS) -> None:
    """Sample, fine-tune, merge and evaluate in one run folder. Without arguments: the bundled miniature pair.

    The same command continues an interrupted run. Settings of one stage have its name before a dot.
    """
    given = _given(flags)
    recipe = options.recipe
    if recipe is None and not {"expert", "amateur"} & given.keys():
        recipe = DEFAULT_RECIPE
        _say(f"no --config and no --expert: running the bundled recipe {recipe}")
    config = RunConfig.checked(_merged(load_recipe(recipe) if recipe else {}, given))
    _do("pipeline", "run", config, options, _run_lines)


@app.command
def sample(
    *, flags: Annotated[SampleFlags | None, Flat] = None, options: Annotated[Options, Flat] = NO_OPTIONS
) -> None:
    """Stage 1: expert rollouts, both models scored on identical prefixes, informative steps kept and labelled."""
    _do("samples.sampling", "sample", _resolve(SampleConfig, flags, options.recipe), options)


@app.command
def finetune(
    *, flags: Annotated[FinetuneFlags | None, Flat] = None, options: Annotated[Options, Flat] = NO_OPTIONS
) -> None:
    """Stage 2: LoRA fine-tuning of the expert on the stored labels."""
    _do("training.finetuning", "finetune", _resolve(FinetuneConfig, flags, options.recipe), options)


@app.command
def merge(*, flags: Annotated[MergeFlags | None, Flat] = None, options: Annotated[Options, Flat] = NO_OPTIONS) -> None:
    """Stage 3: base + adapter as a plain model folder, read back and compared."""
    _do("training.merging", "merge", _resolve(MergeConfig, flags, options.recipe), options)


@app.command
def evaluate(
    *, flags: Annotated[EvaluateFlags | None, Flat] = None, options: Annotated[Options, Flat] = NO_OPTIONS
) -> None:
    """Stage 4: accuracy on benchmarks with 95 % intervals; by default greedy pass@1."""
    _do("evaluation.evaluate", "evaluate", _resolve(EvaluateConfig, flags, options.recipe), options, _evaluation_lines)


@app.command
def plan(
    *,
    flags: Annotated[RunFlags | None, Flat] = None,
    recipe: Annotated[str | None, Parameter(name="--config")] = None,
    flops: float = 50e12,
    prompt_tokens: int = 128,
    as_json: Json = False,
) -> None:
    """What `lightr run` with these settings would cost: FLOP, time, memory and disk. Loads no weights.

    Args:
        flags: the settings of the run.
        recipe: a bundled name or a .yaml file; without it and without --expert the bundled miniature.
        flops: floating-point operations a second that the machine keeps up.
        prompt_tokens: mean length of the prompts.
        as_json: print the result as JSON.
    """
    from lightreasoner.plan import plan as do_plan
    from lightreasoner.plan import plan_lines

    given = _given(flags)
    if recipe is None and not {"expert", "amateur"} & given.keys():
        recipe = DEFAULT_RECIPE
    if flops <= 0 or prompt_tokens < 0:
        raise ConfigError(f"--flops {flops} and --prompt-tokens {prompt_tokens}: a rate is above 0, a length not below")
    config = RunConfig.checked(_merged(load_recipe(recipe) if recipe else {}, given))
    _print(do_plan(config, flops=flops, prompt_tokens=prompt_tokens), as_json, plan_lines)


@app.command
def doctor(
    *,
    expert: str | None = None,
    amateur: str | None = None,
    expert_revision: str | None = None,
    as_json: Json = False,
) -> None:
    """Look whether this machine is fit for the job, and whether two models are a pair. Exit code 1 if they are not.

    Args:
        expert: model to look at: a Hub id, a local folder, a .gguf file, or miniature/NAME.
        amateur: weaker model that should share its vocabulary.
        expert_revision: branch, tag or commit of a Hub expert.
        as_json: print the result as JSON.
    """
    from lightreasoner.doctor import examine, finding_lines

    result = examine(expert, amateur, expert_revision)
    _print(result, as_json, finding_lines)
    if not result["fit"]:
        sys.exit(1)


@app.command
def compare(before: Path, after: Path, *, judge: JudgeName | None = None, as_json: Json = False) -> None:
    """Compare two evaluations item by item: gains with intervals, exact McNemar tests with Holm's correction.

    Args:
        before: --out folder of the first evaluation.
        after: --out folder of the second one.
        judge: whose verdicts; by default those of math-verify where there are any.
        as_json: print the result as JSON.
    """
    from lightreasoner.evaluation.comparison import compare as do_compare
    from lightreasoner.report.tables import comparison_lines

    _print(do_compare(before, after, judge=judge), as_json, comparison_lines)


@app.command(name="inspect")
def inspect_question(
    question: str,
    *,
    flags: Annotated[InspectFlags | None, Flat] = None,
    recipe: Annotated[str | None, Parameter(name="--config")] = None,
    as_json: Json = False,
) -> None:
    """Ask one question, and show token by token where expert and amateur part: live, in the terminal or as HTML.

    Args:
        question: what is asked.
        recipe: recipe to take the pair and the settings from; flags win over it.
        as_json: print counts as JSON instead of the heat map.
    """
    given = _given(flags)
    if recipe is not None:
        run_config = RunConfig.checked(_merged(load_recipe(recipe), {k: given[k] for k in given.keys() & _SHARED}))
        of_recipe = run_config.for_sample().model_dump(include=set(InspectSettings.model_fields))
        given = {**of_recipe, **given}
    config = InspectConfig.checked({**given, "question": question})
    from lightreasoner.inspection import inspect as do_inspect

    result = do_inspect(config, show=not as_json)
    if as_json or config.html is not None:
        _print(result, as_json)


@app.command(name="report")
def make_report(
    run_folder: Path,
    *,
    out: Path | None = None,
    markdown: bool = False,
    figures: Path | None = None,
    as_json: Json = False,
) -> None:
    """Show what a run folder holds: one HTML file with accuracies, cost, and every rollout token by token.

    Args:
        run_folder: run folder, or one of `lightr samples import`.
        out: file to write; by default report.html in the run folder, while Markdown and JSON go to stdout.
        markdown: write Markdown instead of HTML, without the rollouts.
        figures: write the paper's figures of this run into this folder instead, as SVG and PNG with their data.
        as_json: write JSON instead of HTML, without the rollouts.
    """
    from lightreasoner import report as reporting

    if sum((markdown, as_json, figures is not None)) > 1:
        raise ConfigError("--markdown, --json and --figures are different things to write; give one of them")
    if figures is not None:
        print("\n".join(map(str, reporting.write_figures(run_folder, figures))))
    elif not (markdown or as_json):
        _print(reporting.write_page(run_folder, out), as_json=False)
    else:
        found = reporting.report(run_folder)
        as_text = json.dumps(found.as_dict(), indent=2, ensure_ascii=False) + "\n"
        text = reporting.markdown(found) if markdown else as_text
        if out is None:
            print(visible(text), end="")
        else:
            out.write_text(text, encoding="utf-8")


@app.command
def grade(
    file: Path,
    *,
    judge: JudgeName = "math-verify",
    out: Path | None = None,
    seconds: float = 10.0,
    megabytes: int = 1024,
    workers: int | None = None,
) -> None:
    """Judge outputs that came from anywhere, one verdict a line.

    Args:
        file: JSONL file with the fields gold and text, and optionally benchmark, in each line.
        judge: math-verify compares answers as mathematics; toolkit decides as the paper's evaluation toolkit.
        out: JSONL file to write, which must not exist; by default the verdicts go to stdout.
        seconds: time that the judge has for one answer.
        megabytes: memory that one of the judge's processes may take.
        workers: processes that judge; by default one for each processor core.
    """
    from lightreasoner.evaluation.grade_file import grade_file

    counts = grade_file(file, out, judge=judge, seconds=seconds, megabytes=megabytes, workers=workers)
    _say(", ".join(f"{count} {verdict.replace('_', ' ')}" for verdict, count in counts.items()))


@app.command
def study(
    name: str,
    *,
    recipe: tuple[str, ...] = (),
    out: Path = Path("runs/studies"),
    seeds: int | None = None,
    quick: bool = False,
    workers: int | None = None,
    write: Path | None = None,
    as_json: Json = False,
) -> None:
    """Make a table or figure of the paper: runs what is missing, then writes Markdown, CSV, JSON and pictures.

    Args:
        name: table1 … table8, figure1 … figure9, selection, sweeps, or all.
        recipe: bundled name or .yaml file; further ones are further rows of Table 1. By default the miniature's two.
        out: folder of all studies, which share their runs.
        seeds: of every setting; by default each study's own number.
        quick: everything smaller, in minutes, to see that it works.
        workers: processes; by default one for each core, and one on a GPU.
        write: file for all reports as one page, beside the paper's figures.
        as_json: print the reports as JSON.
    """
    from lightreasoner.studies.study import study as do_study

    result = do_study(name, recipes=recipe, out=out, seeds=seeds, quick=quick, workers=workers, page_file=write)
    _print(result, as_json, _study_lines)


@app.command(name="benchmarks")
def list_benchmarks(*, as_json: Json = False) -> None:
    """The benchmarks: size, metric, source, and whether a published figure has been reproduced."""
    from lightreasoner.report.tables import benchmark_lines, benchmark_rows

    _print({row["name"]: row for row in benchmark_rows()}, as_json, benchmark_lines)


@app.command
def baseline(
    kind: BaselineKind,
    *,
    flags: Annotated[BaselineFlags | None, Flat] = None,
    options: Annotated[Options, Flat] = NO_OPTIONS,
) -> None:
    """A rival's training data in the place of stage 1: all tokens of whole answers, for `lightr finetune`.

    Args:
        kind: rejection-sft for the model's own right answers, ground-truth for written solutions.
        flags: the model and the problems.
        options: recipe, dry run, output.
    """
    if options.recipe is not None:
        raise ConfigError("recipes have no section for a rival's data; give its settings as flags")
    given = {**_given(flags), "kind": kind}
    _do("samples.baselines", "baseline", BaselineConfig.checked(given), options)


@samples_app.command(name="select")
def select_samples(
    source: Path,
    out: Path,
    *,
    flags: Annotated[SelectFlags | None, Flat] = None,
    seed: int = 42,
    as_json: Json = False,
) -> None:
    """Keep other steps or make other labels of the same samples: selection rules, labels without contrast.

    Args:
        source: run folder of `lightr sample --divergence-beta none`, which holds every step.
        out: run folder for the selection, which `lightr finetune --data` takes.
        flags: the rule and the labels.
        seed: of what is drawn at random: the random rule, and which of equal scores are kept.
        as_json: print the result as JSON.
    """
    from lightreasoner.samples.selecting import select

    _print(select(SelectConfig.checked({**_given(flags), "source": source, "out": out, "seed": seed})), as_json)


@samples_app.command(name="import")
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
    as_json: Json = False,
) -> None:
    """Turn a sample file of the authors' JSONL format into a folder that `lightr finetune --data` takes.

    Args:
        file: JSONL file of samples, or a .zip that holds one.
        out: folder to write.
        expert: model that was sampled; its tokenizer and chat template make the token ids.
        expert_revision: branch, tag or commit of a Hub expert.
        member: which file of a .zip; by default the only one that ends like a text file.
        questions: file with the questions, where the samples' prompt_id is not the question itself but its id.
        question_field: field of that file that holds the question.
        cue: system message that the samples were made with; the authors' script used "Please reason step by step."
        trust_remote_code: run Python code that the model repository ships.
        as_json: print the result as JSON.
    """
    from lightreasoner.samples.jsonl import import_samples as do_import

    _print(
        do_import(
            file,
            out,
            expert=expert,
            expert_revision=expert_revision,
            member=member,
            questions=questions,
            question_field=question_field,
            cue=cue,
            trust_remote_code=trust_remote_code,
        ),
        as_json,
    )


@samples_app.command(name="export")
def export_samples(run_folder: Path, file: Path, *, trust_remote_code: bool = False, as_json: Json = False) -> None:
    """Write the kept steps of a run as JSONL: the authors' fields and ours, one line a step.

    Args:
        run_folder: run folder of `lightr sample`.
        file: JSONL file to write; must not exist.
        trust_remote_code: run Python code that the model repository ships.
        as_json: print the result as JSON.
    """
    from lightreasoner.samples.jsonl import export_samples as do_export

    _print(do_export(run_folder, file, trust_remote_code=trust_remote_code), as_json)


@answers_app.command(name="import")
def import_answers(
    file: Path,
    out: Path,
    *,
    benchmark: BenchmarkName,
    prompt: PromptKind = "chat",
    model: str | None = None,
    as_json: Json = False,
) -> None:
    """Turn an output file of the Qwen2.5-Math toolkit into an evaluation folder that `lightr compare` takes.

    Args:
        file: JSONL file that the toolkit wrote with --save_outputs.
        out: evaluation folder to write into.
        benchmark: which benchmark the file answers.
        prompt: which kind the toolkit's prompts are like; qwen25-math-cot is chat, cot and direct are plain.
        model: name of the model, which the file does not tell.
        as_json: print the result as JSON.
    """
    from lightreasoner.evaluation.toolkit_import import import_toolkit

    _print(import_toolkit(file, out, benchmark=benchmark, prompt=prompt, model=model), as_json)


@answers_app.command(name="export")
def export_answers(evaluation: Path, out: Path, *, to: Literal["lm-eval", "hub"], as_json: Json = False) -> None:
    """Write an evaluation in the form of another tool.

    Args:
        evaluation: --out folder of `lightr evaluate`.
        out: folder to write into; no file is overwritten.
        to: lm-eval for the logs of lm-evaluation-harness, hub for the evaluation results of a model's repository.
        as_json: print the result as JSON.
    """
    from lightreasoner.evaluation.exports import export_answers as do_export

    _print(do_export(evaluation, out, to=to), as_json)


@recipes_app.command(name="ls")
def list_recipes() -> None:
    """Names of the bundled recipes."""
    print("\n".join(recipe_names()))


@recipes_app.command(name="show")
def show_recipe(name: str) -> None:
    """Print a bundled recipe."""
    print(recipe_text(name), end="")


@recipes_app.command(name="copy")
def copy_recipe(name: str, file: Path) -> None:
    """Copy a bundled recipe to a file of your own, which must not exist."""
    text = recipe_text(name)
    try:
        with file.open("x", encoding="utf-8") as copy:
            copy.write(text)
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}") from None


def main() -> None:
    """Entry point of `lightr` and `lightreasoner`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without Greek letters is no reason to fail
    if not sys.warnoptions:
        # What one library will change for another is no business of the person at the terminal.
        warnings.simplefilter("ignore", FutureWarning)
    for number in set(STOP_SIGNALS) - {signal.SIGINT}:  # which Python turns into KeyboardInterrupt by itself
        signal.signal(number, _leave)
    try:
        app(sys.argv[1:], exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except LightReasonerError as error:
        _fail(str(error), error.exit_code)
    except CycloptsError as error:
        cause = error.__cause__ or error.__context__
        _fail(explain(RunFlags, cause) if isinstance(cause, ValidationError) else str(error), 2)
    except KeyboardInterrupt:
        _fail(STOPPED, 130)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or closing stdout fails once more, if it was stdout
        if isinstance(error, BrokenPipeError):
            sys.exit(1)
        _fail(f"cannot read or write {error.filename or 'the output'}: {error.strerror or error}", 1)


def _fail(message: str, exit_code: int) -> None:
    _say(f"lightr: {' '.join(message.split())}")
    sys.exit(exit_code)


def _leave(number: int, frame: FrameType | None) -> None:
    """Signal handler for where no stage has its own. No `print`: the signal may have come in the middle of one."""
    os.write(2, f"lightr: {STOPPED}\n".encode())
    sys.exit(128 + number)


def _say(line: str) -> None:
    print(visible(line), file=sys.stderr, flush=True)


def _given(flags: Config | None) -> dict[str, Any]:
    return flags.model_dump(exclude_unset=True) if flags is not None else {}


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of `below`, overridden by those of `above`, sections key by key."""
    both = {key for key in below.keys() & above.keys() if isinstance(below[key], dict) and isinstance(above[key], dict)}
    return {**below, **above, **{key: _merged(below[key], above[key]) for key in both}}


def _resolve(stage: type[C], flags: Config | None, recipe: str | None) -> C:
    """Defaults < recipe < flags, for a command that runs one stage of a recipe."""
    given = _given(flags)
    if recipe is None:
        return stage.checked(given)
    section = {SampleConfig: "sample", FinetuneConfig: "finetune", MergeConfig: "merge", EvaluateConfig: "evaluate"}[
        stage
    ]
    run_config = RunConfig.checked(_merged(load_recipe(recipe), {k: given[k] for k in given.keys() & _SHARED}))
    if stage is EvaluateConfig:
        of_recipe: Config = run_config.for_evaluate(run_config.expert, run_config.expert_revision, "expert")
    else:
        of_recipe = getattr(run_config, f"for_{section}")()
    return stage.checked({**of_recipe.model_dump(), **given})


# Settings of the whole run that a stage's command may give before the recipe is complete without them.
_SHARED = {"expert", "amateur", "dataset"}


def _do(module: str, function: str, config: Config, options: Options, lines: Lines | None = None) -> None:
    """Run a stage, imported only now, and print its result; or print its settings on a dry run."""
    if options.dry_run:
        print(visible(json.dumps(config.model_dump(mode="json"), indent=2, ensure_ascii=False)))
        return
    is_first = os.environ.get("RANK", "0") == "0"  # the other processes of torchrun work in the folder that it holds
    if is_first:
        from lightreasoner.runs.locks import refuse_if_held

        folder: Path = config.out  # type: ignore[attr-defined]
        refuse_if_held(folder.parent if isinstance(config, MergeConfig) else folder)
    result = getattr(import_module(f"lightreasoner.{module}"), function)(config)
    if is_first:
        _print(result, options.as_json, lines)


def _print(result: Mapping[str, Any], as_json: bool, lines: Lines | None = None) -> None:
    if as_json:
        print(visible(json.dumps(result, indent=2, ensure_ascii=False)))
    else:
        print(visible("\n".join(lines(result) if lines else (f"{key}: {value}" for key, value in result.items()))))


def _evaluation_lines(result: Mapping[str, Any]) -> list[str]:
    from lightreasoner.report.tables import evaluation_lines

    return evaluation_lines(result)


def _study_lines(result: Mapping[str, Any]) -> list[str]:
    return [line for report in result.values() for line in (f"# {report['title']}", "", *report["lines"], "")]


def _run_lines(result: Mapping[str, Any]) -> list[str]:
    from lightreasoner.report.tables import comparison_lines

    sampled, tuned = result["sample"], result["finetune"]
    lines = [
        f"expert {result['expert']}, amateur {result['amateur']}, "
        f"{sampled['questions']} questions of {result['dataset']}",
        f"kept {sampled['kept_steps']} of {sampled['steps']} steps; trained on {tuned['labels_trained']} labels",
    ]
    lines += ["", *comparison_lines(result["comparison"]), ""]
    lines.append("time: " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result["seconds"].items()))
    return lines


if __name__ == "__main__":
    main()
