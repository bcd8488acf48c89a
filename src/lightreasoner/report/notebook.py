"""Pages in the output of a notebook's cell."""

import html
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from lightreasoner.errors import DataError
from lightreasoner.report import write_page

ROLLOUTS = 100  # in the output of a cell, which the notebook's file keeps


@dataclass(frozen=True)
class Page:
    """An HTML page that a notebook shows in the output of a cell.

    The output holds the whole page, and fetches nothing. It is an iframe without the notebook's origin: the page has
    texts of models and data, and its script must not reach the notebook.
    """

    text: str = field(repr=False)
    height: int  # pixels

    def _repr_html_(self) -> str:
        style = f"width: 100%; height: {self.height}px; border: 0"
        return f'<iframe sandbox="allow-scripts" style="{style}" srcdoc="{html.escape(self.text)}"></iframe>'


def show(path: str | os.PathLike[str], *, rollouts: int = ROLLOUTS, height: int = 720) -> Page:
    """Show a run folder, or a page of `inspect`, in a notebook: the report with its token browser.

    Args:
        path: run folder, finished or not, or an HTML file of this package.
        rollouts: most rollouts in the token browser, 3 to 10 KB each; `report.html` in the run folder has more.
        height: of the output, in pixels.

    Returns:
        The page; as the last value of a cell it is shown.

    Raises:
        DataError: there is nothing to show.
    """
    if Path(path).is_file():
        return Page(_text(Path(path)), height)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.html"
        write_page(Path(path), file, rollouts)
        return Page(_text(file), height)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{file} is no HTML page of this package; give a run folder, or a page of inspect") from None
