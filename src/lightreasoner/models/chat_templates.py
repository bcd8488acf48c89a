"""Render chat templates, which are untrusted programs that come with a model.

The sandbox of transformers blocks files and Python internals, but not endless loops and unlimited memory. So templates
are rendered in a separate process with a time limit and a memory limit, and only once a run: the result for a marked
question gives the text around any question.

A template can read the clock (`strftime_now`, as Llama 3's does) and draw at random (Jinja's `random`). Both are fixed:
the clock stands at the time that the caller gives, and every rendering draws the same. So a stage that is resumed on
another day renders the prompts it began with, if it gives the time that its manifest holds, and a difference between
two renderings at one time means that the template changed.
"""

import faulthandler
import json
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

from lightreasoner.errors import ConfigError
from lightreasoner.miniature import model_path

SECONDS = 5.0  # for all renderings of a template; a normal one takes 5 ms
START_SECONDS = 60.0  # for the start of the process on a busy machine
MEMORY = 2 << 30  # bytes, on systems with such a limit
LONGEST = 1 << 20  # characters of a rendered prompt


class Conversation(NamedTuple):
    """Input of a template: messages, and whether to open the assistant's turn after them."""

    messages: list[dict[str, str]]
    open_turn: bool = True


class Rendered(NamedTuple):
    """A rendered conversation, or the error; and the dates that the template wrote, by their format."""

    text: str
    error: str | None
    dates: dict[str, str]


def render(
    template: str, conversations: Sequence[Conversation], variables: Mapping[str, Any], at: str
) -> list[Rendered]:
    """Render conversations in a separate process, within `SECONDS` and `MEMORY`.

    The template of the bundled models is trusted, and rendered in this process.

    Args:
        template: Jinja source.
        conversations: conversations to render.
        variables: further variables of templates, such as `bos_token`.
        at: time that the template's clock shows, ISO 8601; its own time of day counts, whatever this machine's zone is.

    Raises:
        ConfigError: the template exceeded a limit.
    """
    request = json.dumps([template, [tuple(item) for item in conversations], dict(variables), at], default=str)
    if template == (model_path("expert") / "chat_template.jinja").read_text(encoding="utf-8"):
        return _render(request)
    return [Rendered(*item) for item in json.loads(_ask_worker(request))]


@cache
def _ask_worker(request: str) -> str:
    command = [sys.executable, "-P", "-m", __name__]  # -P: no imports from the current folder
    try:
        worker = subprocess.run(  # noqa: S603 - this module
            command, input=request, capture_output=True, encoding="utf-8", timeout=START_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        worker = None
    if worker is None or worker.returncode:
        raise ConfigError(
            f"the chat template did not finish within {SECONDS:.0f} s and {MEMORY >> 30} GiB, and was stopped. It is "
            "broken or hostile; give another one with --chat-template"
        )
    return worker.stdout


def _render(request: str) -> list[Rendered]:
    from transformers.utils.chat_template_utils import _compile_jinja_template, render_jinja_template

    template, conversations, variables, at = json.loads(request)
    clock, random_state = datetime.fromisoformat(at).replace(tzinfo=None), random.getstate()
    rendered = []
    for messages, open_turn in conversations:
        dates: dict[str, str] = {}

        def strftime_now(pattern: str, dates: dict[str, str] = dates) -> str:
            return dates.setdefault(pattern, clock.strftime(pattern))

        random.seed(0)
        try:
            _compile_jinja_template(template).globals["strftime_now"] = strftime_now  # cached: the one rendered below
            result: Any = render_jinja_template(
                [messages], chat_template=template, add_generation_prompt=open_turn, **variables
            )
            text = result[0][0]
            if len(text) > LONGEST:
                raise ValueError(f"{len(text)} characters, more than {LONGEST}")
            rendered.append(Rendered(text, None, dates))
        except (Exception, MemoryError, RecursionError) as error:  # a template can raise anything
            rendered.append(Rendered("", f"{type(error).__name__}: {error}"[:300], dates))
    random.setstate(random_state)
    return rendered


def main() -> None:
    """Answer one request from stdin on stdout: `python -m lightreasoner.models.chat_templates`."""
    from transformers.utils import chat_template_utils  # noqa: F401 - before the time limit starts

    # faulthandler's timer is a C thread, so it also ends a process in one long multiplication, on every platform.
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, ValueError, OSError):
        pass  # no memory limit on this system; the time limit remains
    sys.stdout.write(json.dumps(_render(sys.stdin.read())))


if __name__ == "__main__":
    main()
