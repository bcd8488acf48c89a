"""The command line: functions of this package whose signatures are the flags, and whose docstrings are the help.

To add a command, register its function below. The help shows commands in the order of this file. Signatures are read
from the source and functions are imported only when they run, so `--help` needs no torch.

Data goes to stdout (JSON with `--json`), everything else to stderr. Exit code 0 on success, 1 for a failure, 2 for
wrong usage, 128 + number (130, 138, 143) when a signal interrupted the command.
"""

import ast
import inspect
import io
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from pkgutil import resolve_name
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

import docstring_parser
from cyclopts import App, CycloptsError, Group, MissingArgumentError, Parameter, UnknownOptionError
from docstring_parser import Docstring
from pydantic import ConfigDict, PlainValidator, create_model

from lightreasoner import config as cfg
from lightreasoner.config import sections, stages
from lightreasoner.config.base import Config, meant
from lightreasoner.errors import INTERRUPTED, STOP_SIGNALS, ConfigError, LightReasonerError
from lightreasoner.recipes import copy_recipe, has_section, recipe_list, recipe_text, resolve
from lightreasoner.runs.environment import version_lines
from lightreasoner.runs.progress import logger, only_warnings, printed_messages, say
from lightreasoner.runs.terminal import visible

C = TypeVar("C", bound=Config)
Json = Annotated[bool, Parameter(name="--json", help="Print the result as JSON.")]
DryRun = Annotated[bool, Parameter(name="--dry-run", help="Print the resolved settings as JSON, check them and exit.")]
Quiet = Annotated[bool, Parameter(name="--quiet", help="Print results, warnings and errors only.")]
Recipe = Annotated[str | None, Parameter(name="--config", help="Bundled recipe or .yaml file; flags override it.")]

POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD
TRAIN, CHECK, LOOK, BEYOND, DATA, OPTIONS = map(
    Group.create_ordered,
    ("Train and evaluate", "Check and plan", "Look at results", "Baselines and studies", "Data", "Options"),
)
# What torchrun tells a process; with these set, accelerate waits for the others.
LAUNCHER = "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE GROUP_RANK GROUP_WORLD_SIZE MASTER_ADDR MASTER_PORT".split()
_order = count()


@cache
def _docstring(item: Any) -> Docstring:
    """The docstring of a function. A class has none: pydantic has read its source, and reading it again takes time."""
    if isinstance(item, type):
        return Docstring()
    docstring = docstring_parser.parse(item.__doc__ or "")
    for parameter in docstring.params:
        parameter.description = _one_line(parameter.description)
    return docstring


docstring_parser.parse_from_object = _docstring


app = App(
    name="lightr",
    help="Improve a language model's reasoning without labels, by contrasting it with a weaker model.",
    version=version_lines,
    version_format="plaintext",
    help_format="plaintext",
    default_parameter=Parameter(consume_multiple=True, negative=()),
    suppress_keyboard_interrupt=False,  # `main` reports it
)
app.register_install_completion_command(help="Install completion for bash, zsh, fish or PowerShell.")
for option in ("--help", "--version", "--install-completion"):
    app[option].group = OPTIONS


def command(
    name: str,
    target: str | Callable[..., Any],
    *,
    of: App = app,
    group: Group | None = None,
    positional: Sequence[str] = (),
    flags: Mapping[str, str] = MappingProxyType({}),
    notes: str = "",
    lines: str | None = None,
    show: Callable[[Any], None] | None = None,
    with_json: bool = True,
    writes: bool = True,
    distributed: bool = False,
    check: Callable[[Any], None] | None = None,
) -> None:
    """Register a command. The parameters of its function are the flags, its docstring is their help.

    A parameter `config` adds the fields of its class as flags, --config and --dry-run. Every command has --quiet.

    Args:
        name: name on the command line.
        target: function that runs the command, or "module:function" of this package.
        of: app that the command belongs to.
        group: title in the help.
        positional: fields of the config that are positional arguments.
        flags: names of flags that differ from their parameters.
        notes: help below the docstring's first line.
        lines: "module:function" that turns the result into lines for people; by default one `key: value` each.
        show: called with the result: after it was printed, or instead of printing if `with_json` is false.
        with_json: add --json, and print the result.
        writes: refuse early if another process holds the `out` folder of the config.
        distributed: all processes of torchrun work; otherwise the first works, and the others end.
        check: called with the config by --dry-run; raises if the command could not finish.
    """
    declared = _declaration(target) if isinstance(target, str) else target
    parameters = inspect.signature(declared).parameters
    kind: type[Config] | None = parameters["config"].annotation if "config" in parameters else None
    signature = inspect.Signature(_options(parameters, kind, positional, flags, with_json))

    def execute(*args: Any, **kwargs: Any) -> None:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        if given["quiet"]:
            only_warnings()
        is_first = os.environ.get("RANK", "0") == "0"  # the process of torchrun that holds the folder and prints
        if not distributed:
            if not is_first:
                return
            _leave_launcher(name)
        if kind is not None:
            given["config"] = _checked(kind, given, positional)
            if given["dry_run"]:
                _show_settings(given["config"], check)
                return
            if writes and is_first:
                _refuse_if_held(given["config"])
        function = resolve_name(f"lightreasoner.{target}") if isinstance(target, str) else target
        result = function(**{parameter: given[parameter] for parameter in parameters})
        if is_first and (with_json or show is None):
            _print(result, given.get("as_json", False), lines)
        if is_first and show is not None:
            show(result)

    execute.__doc__, execute.__signature__ = declared.__doc__, signature  # type: ignore[attr-defined]
    summary = (declared.__doc__ or "").partition("\n")[0]
    text = f"{summary}\n\n{_one_line(notes)}".rstrip()
    of.command(execute, name=name, group=group, help=text, sort_key=next(_order))


def _one_line(text: str | None) -> str:
    """Without the line breaks of the source; the help breaks lines where the terminal ends."""
    return " ".join((text or "").split())


def _options(
    parameters: Mapping[str, inspect.Parameter],
    kind: type[Config] | None,
    positional: Sequence[str],
    flags: Mapping[str, str],
    with_json: bool,
) -> list[inspect.Parameter]:
    """What a command takes: the settings of its config, its own parameters, and those of all commands."""
    options = {
        name: value.replace(annotation=Annotated[value.annotation, Parameter(name=flags.get(name))])
        for name, value in parameters.items()
    }
    if kind is not None:
        options = _settings(kind, positional) | {**options, "config": _flags(kind, positional)}
        if has_section(kind):
            options["recipe"] = _option("recipe", None, Recipe)
        options["dry_run"] = _option("dry_run", False, DryRun)
    options["quiet"] = _option("quiet", False, Quiet)
    if with_json:
        options["as_json"] = _option("as_json", False, Json)
    return list(options.values())


def _show_settings(config: Config, check: Callable[[Any], None] | None) -> None:
    """Print the settings, then check that the command could finish with them."""
    _print(config.model_dump(mode="json"), as_json=True)
    if check is not None:
        check(config)


def _declaration(target: str) -> Callable[..., Any]:
    """Signature and docstring of "module:function", read from its source: importing its module would import torch."""
    module, _, name = target.partition(":")
    path = Path(__file__).parent.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    _, start, rest = path.read_text(encoding="utf-8").partition(f"\ndef {name}(")
    (function,) = ast.parse(start + rest.partition("\n\n\n")[0]).body  # the whole file would take longer
    assert isinstance(function, ast.FunctionDef)
    function.body, function.returns = function.body[:1], None  # the docstring stays
    namespace: dict[str, Any] = {**vars(sections), **vars(stages), **vars(cfg), "Sequence": Sequence}
    exec(compile(ast.Module([function], []), path, "exec"), namespace)  # noqa: S102 - our own source
    declared: Callable[..., Any] = namespace[name]
    return declared


def _option(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _settings(kind: type[Config], positional: Sequence[str]) -> dict[str, inspect.Parameter]:
    """These fields of a config as positional arguments."""
    arguments = {}
    for name in positional:
        field = kind.model_fields[name]
        text = Parameter(help=field.description)
        arguments[name] = inspect.Parameter(name, POSITIONAL, annotation=Annotated[field.annotation, text])
    return arguments


def _flags(kind: type[Config], positional: Sequence[str]) -> inspect.Parameter:
    """The other fields of a config as flags."""
    without = {*positional, *_unused(kind)}
    fields: Any = {name: (field.annotation, field) for name, field in kind.model_fields.items() if name not in without}
    others = create_model(kind.__name__, __config__=ConfigDict(defer_build=True), **fields) if without else kind
    # cyclopts passes on the given flags as a dict, unchecked: `_checked` adds the recipe.
    return _option("config", None, Annotated[others, Parameter(name="*"), PlainValidator(dict)])


def _unused(kind: type[Config]) -> set[str]:
    """The settings that a command's config has and the command does not use: mostly sections of other commands."""
    if issubclass(kind, cfg.InspectConfig):
        return {"max_questions", "batch_size"}
    if not issubclass(kind, cfg.RunConfig):
        return set()
    return {"study"} if issubclass(kind, cfg.RoundsConfig) else {"study", "rounds"}


def _checked(kind: type[C], given: Mapping[str, Any], positional: Sequence[str]) -> C:
    """The config of a command: defaults < recipe < flags."""
    flags = {**(given["config"] or {}), **{name: given[name] for name in positional}}
    recipe = given.get("recipe")
    needs_pair = issubclass(kind, cfg.RunConfig) and kind.model_fields["expert"].is_required()
    if needs_pair and recipe is None and not {"expert", "amateur"} & flags.keys():
        recipe = "miniature"
        say(f"no --config and no --expert: using the bundled recipe {recipe}")
    return resolve(kind, flags, recipe)


def _leave_launcher(name: str) -> None:
    """Work alone under torchrun, and say so."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        say(f"`lightr {name}` works in one process; the others that torchrun started end. Only `finetune` uses several")
        for variable in LAUNCHER:
            os.environ.pop(variable, None)


def _check_run(config: cfg.RunConfig) -> None:
    from lightreasoner.pipeline import check

    check(config, download=False)


def _check_rounds(config: cfg.RoundsConfig) -> None:
    from lightreasoner.rounds import check

    check(config, download=False)


def _outline_push(config: cfg.PushConfig) -> None:
    from lightreasoner.push import outline

    outline(config)


def _refuse_if_held(config: Config) -> None:
    """Refuse a folder in use before the import of torch, which takes seconds."""
    folder: Path | None = getattr(config, "out", None)
    if folder is not None and not getattr(config, "join", False):
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
    elif not result:
        return  # of a process that joined: the one that it joined has the result
    elif lines is not None:
        text = "\n".join(resolve_name(f"lightreasoner.{lines}")(result))
    else:
        text = "\n".join(f"{key}: {value}" for key, value in result.items())
    print(visible(text))


def _inspect(*, config: cfg.InspectConfig, as_json: bool = False) -> dict[str, Any] | None:
    """Sample one response and show token by token where expert and amateur differ, in the terminal or as HTML."""
    from lightreasoner.inspection import inspect

    result = inspect(config, show=not as_json)
    return result if as_json or config.html is not None else None


def _benchmarks(*, lm_eval: bool = False) -> Any:
    """List the benchmarks: size, metric, source, and whether a published figure has been reproduced.

    Args:
        lm_eval: Print instead the folder of these benchmarks as tasks of lm-eval, for its --include_path.
    """
    if not lm_eval:
        from lightreasoner.report.tables import benchmark_rows

        return benchmark_rows()
    if find_spec("lm_eval") is None:
        raise ConfigError(
            "lm-eval is not installed here, and its tasks import lightreasoner. Install both in one environment: "
            "pip install '.[lm-eval]' in the clone of lightreasoner"
        )
    return str(Path(__file__).parent / "evaluation" / "lm_eval_tasks")


def _fail_if_unfit(result: Mapping[str, Any]) -> None:
    if not result["fit"]:
        sys.exit(1)


def _say_verdicts(counts: Mapping[str, int]) -> None:
    say(", ".join(f"{number} {verdict.replace('_', ' ')}" for verdict, number in counts.items()))


RUN_NOTES = """
Without --config and --expert it runs the bundled recipe miniature, which needs no download and no GPU. Flags
override the recipe; settings of a stage are dotted: --sample.max-questions 200 --finetune.steps 500.
"""
command("run", "pipeline:run", group=TRAIN, lines="report.tables:run_lines", notes=RUN_NOTES, check=_check_run)
command("sample", "samples.sampling:sample", group=TRAIN, lines="report.tables:sample_lines")
FINETUNE_LINES = "report.tables:finetune_lines"
command("finetune", "training.finetuning:finetune", group=TRAIN, lines=FINETUNE_LINES, distributed=True)
command("merge", "training.merging:merge", group=TRAIN, lines="report.tables:merge_lines")
command("evaluate", "evaluation.evaluate:evaluate", group=TRAIN, lines="report.tables:evaluation_lines")

DOCTOR_NOTES = """
With the settings of a run (--config, or --expert and --amateur) it checks what the run needs of this machine, and tries
its first problems. Without an expert it checks the machine alone.
"""
DOCTOR_LINES = "doctor:finding_lines"
command(
    "doctor", "doctor:examine", group=CHECK, lines=DOCTOR_LINES, notes=DOCTOR_NOTES, show=_fail_if_unfit, writes=False
)
PLAN_NOTES = "Without --config and --expert it plans the bundled recipe miniature."
command("plan", "plan:plan", group=CHECK, lines="plan:plan_lines", writes=False, notes=PLAN_NOTES)

ADVISE_NOTES = """
Without --config and --expert it judges the bundled recipe miniature. Prints figures, suggested settings, cost and the
predicted gain, or why that is unknown. Sources: divergence after Figure 2 of the paper (arXiv 2510.07962); overlap of
the top tokens after arXiv 2604.13016; the prediction is this project's own, from pairs whose gain was measured
(lightr study calibration).
"""
command("advise", "advise:advise", group=CHECK, lines="advise:advice_lines", notes=ADVISE_NOTES)

command("report", "report:write", group=LOOK, flags={"as_markdown": "--markdown"})
command("inspect", _inspect, group=LOOK, positional=["question"])
command("compare", "evaluation.comparison:compare", group=LOOK, lines="report.tables:comparison_lines")

command("baseline", "samples.baselines:baseline", group=BEYOND, positional=["kind"])
ROUNDS_NOTES = """
The settings of a round are those of --sample and --finetune; --rounds.… say how rounds follow one another. The round
that is kept is merged into OUT/merged. Without --config and --expert it runs the bundled recipe miniature.
"""
ROUNDS_LINES = "report.tables:rounds_lines"
command("rounds", "rounds:rounds", group=BEYOND, lines=ROUNDS_LINES, notes=ROUNDS_NOTES, check=_check_rounds)
STUDY_FLAGS = {"recipes": "--recipe", "page_file": "--write"}
command("study", "studies.study:study", group=BEYOND, lines="report.tables:study_lines", flags=STUDY_FLAGS)

samples = App(name="samples", help="Select, import and export samples.", group=DATA, sort_key=next(_order))
answers = App(name="answers", help="Import and export evaluation answers.", group=DATA, sort_key=next(_order))
bundled = App(name="recipes", help="List, show and copy the bundled recipes.", group=DATA, sort_key=next(_order))
for sub_app in (samples, answers, bundled):
    app.command(sub_app)
command("benchmarks", _benchmarks, group=DATA, lines="report.tables:benchmark_lines")
command("grade", "evaluation.grade_file:grade_file", group=DATA, show=_say_verdicts, with_json=False)
command("push", "push:push", group=DATA, positional=["run"], lines="push:push_lines", check=_outline_push)
SELECTED = ["source", "out"]
command("select", "samples.selecting:select", of=samples, positional=SELECTED, lines="report.tables:sample_lines")
command("import", "samples.jsonl:import_samples", of=samples, flags={"source_format": "--from"})
command("export", "samples.jsonl:export_samples", of=samples)
command("import", "evaluation.toolkit_import:import_toolkit", of=answers)
command("export", "evaluation.exports:export_answers", of=answers)
command("ls", recipe_list, of=bundled, with_json=False)
command("show", recipe_text, of=bundled, with_json=False)
command("copy", copy_recipe, of=bundled, with_json=False)


def main() -> None:
    """Entry point of `lightr` and `lightreasoner`."""
    with printed_messages():
        _main()


def _main() -> None:
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
    except UnknownOptionError as error:
        _fail(_unknown_flag(error), 2)
    except MissingArgumentError as error:
        _fail(_missing(error), 2)
    except CycloptsError as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail(INTERRUPTED, 130)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # if stdout failed, closing it must not fail again
        if isinstance(error, BrokenPipeError):
            sys.exit(1)
        _fail(f"cannot read or write {error.filename or 'the output'}: {error.strerror or error}", 1)


def _unknown_flag(error: UnknownOptionError) -> str:
    """Names the flags that may be meant, such as `--divergence-beta` for `--beta`."""
    flag = (error.token.keyword or error.token.value).partition("=")[0]
    if not flag.startswith("--"):
        return str(error)
    known = [name for argument in error.argument_collection if argument.parse for name in argument.names]
    keys = {name[2:].replace("-", "_"): name for name in known if name.startswith("--")}
    close = [keys[key] for key in meant(flag[2:].replace("-", "_"), keys)]
    return f"Unknown option: {flag}." + (
        f" Did you mean {' or '.join(close)}?" if close else " --help lists the options"
    )


def _missing(error: MissingArgumentError) -> str:
    """Names a positional argument as the usage line does, not as a flag."""
    argument = error.argument
    if error.keyword is not None or argument is None or not argument.field_info.is_positional:
        return str(error)
    command = " ".join(("lightr", *(error.command_chain or ())))
    name = argument.name.removeprefix("--").replace("-", "_").upper()
    return f"{command} needs {name}; {command} --help shows what it takes"


def _fail(message: str, exit_code: int) -> None:
    logger.error("lightr: %s", " ".join(message.split()))
    sys.exit(exit_code)


def _leave(number: int, *_: object) -> None:
    """Signal handler for where no stage has its own. No `print`: the signal may interrupt one."""
    os.write(2, f"lightr: {INTERRUPTED}\n".encode())
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
