"""Render chat templates, which are untrusted programs that come with a model.

The sandbox of transformers blocks files and Python internals, but not endless loops and unlimited memory. So templates
are rendered in a separate process with a time limit and a memory limit, and only once a run: the result for a marked
question gives the text around any question.
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

SECONDS = 5.0  # for all renderings of a template; a normal one takes 5 ms
START_SECONDS = 60.0  # for the start of the process on a busy machine
MEMORY = 2 << 30  # bytes, on systems with such a limit
LONGEST = 1 << 20  # characters of a rendered prompt


class Conversation(NamedTuple):
    """Input of a template: messages, and whether to open the assistant's turn after them."""

    messages: list[dict[str, str]]
    open_turn: bool = True


class Rendered(NamedTuple):
    """A rendered conversation, or the error."""

    text: str
    error: str | None


def render(template: str, conversations: Sequence[Conversation], variables: Mapping[str, Any]) -> list[Rendered]:
    """Render conversations in a separate process, within `SECONDS` and `MEMORY`.

    The template of the bundled models is trusted, and rendered in this process.

    Args:
        template: Jinja source.
        conversations: conversations to render.
        variables: further variables of templates, such as `bos_token`.

    Raises:
        ConfigError: the template exceeded a limit.
    """
    request = json.dumps([template, [tuple(item) for item in conversations], dict(variables)], default=str)
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
        except (Exception, MemoryError, RecursionError) as error:  # a template can raise anything
            rendered.append(Rendered("", f"{type(error).__name__}: {error}"[:300]))
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
