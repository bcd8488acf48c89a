"""Rendering chat templates: programs that come with a model, from whoever made it.

transformers runs them in a sandbox, which keeps them from files and from Python's insides, but not from running
forever or from filling the memory. So they are rendered in a process of their own, with a clock and a limit, and only
once a run: what they make of a marked question says what to put around any question.
"""

import faulthandler
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from lightreasoner.errors import ConfigError
from lightreasoner.miniature import model_path

SECONDS = 5.0  # for all renderings of a template; a usual one takes a thousandth of it
START_SECONDS = 60.0  # for the process to start on a busy machine
MEMORY = 2 << 30  # bytes, where the system can limit them
LONGEST = 1 << 20  # characters of a rendered prompt


class Conversation(NamedTuple):
    """What a template is asked to render: messages, and whether the assistant's turn is to be opened after them."""

    messages: list[dict[str, str]]
    open_turn: bool = True


class Rendered(NamedTuple):
    """A rendered conversation, or why there is none."""

    text: str
    error: str | None


def render(template: str, conversations: Sequence[Conversation], variables: Mapping[str, Any]) -> list[Rendered]:
    """Render conversations in a process of its own, within `SECONDS` and `MEMORY`.

    The template that ships with this package is rendered here and now: it is no stranger's.

    Args:
        template: Jinja source.
        conversations: what to render.
        variables: further names that templates know, such as `bos_token`.

    Raises:
        ConfigError: the template came to no end.
    """
    request = json.dumps([template, [tuple(item) for item in conversations], dict(variables)], default=str)
    if template == (model_path("expert") / "chat_template.jinja").read_text(encoding="utf-8"):
        return _answer(request)
    return [Rendered(*item) for item in json.loads(_ask_worker(request))]


@cache
def _ask_worker(request: str) -> str:
    command = [sys.executable, "-P", "-m", __name__]  # -P: not out of the current folder
    try:
        worker = subprocess.run(  # noqa: S603 - this module
            command, input=request, capture_output=True, encoding="utf-8", timeout=START_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        worker = None
    if worker is None or worker.returncode:
        raise ConfigError(
            f"the chat template came to no end within {SECONDS:.0f} s and {MEMORY >> 30} GiB, and was stopped. It is "
            "broken or hostile; give another one with --chat-template"
        )
    return worker.stdout


def _answer(request: str) -> list[Rendered]:
    from transformers.utils.chat_template_utils import render_jinja_template

    template, conversations, variables = json.loads(request)
    rendered = []
    for messages, open_turn in conversations:
        try:
            result: Any = render_jinja_template(
                [messages], chat_template=template, add_generation_prompt=open_turn, **variables
            )
            text = result[0][0]
            if len(text) > LONGEST:
                raise ValueError(f"{len(text)} characters, more than {LONGEST}")
            rendered.append(Rendered(text, None))
        except (Exception, MemoryError, RecursionError) as error:  # whatever a stranger's program makes of it
            rendered.append(Rendered("", f"{type(error).__name__}: {error}"[:300]))
    return rendered


def main() -> None:
    """Answer one request from stdin on stdout: `python -m lightreasoner.models.chat_templates`."""
    from transformers.utils import chat_template_utils  # noqa: F401 - the clock starts when it is there

    # Its clock is a thread in C: it ends a process that hangs in one long multiplication too, on every platform.
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, ValueError, OSError):
        pass  # not on this system: the clock alone must do
    sys.stdout.write(json.dumps(_answer(sys.stdin.read())))


if __name__ == "__main__":
    main()
