"""The paper's figures: every number is drawn, text is drawn literally, the data are saved with the picture."""

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure
from PIL import Image

from lightreasoner.report.figures import (
    GapPoint,
    Segment,
    curves,
    gap_scatter,
    grouped_bars,
    kl_along_rollout,
    kl_histogram,
    radar,
    save,
)

HISTOGRAM = [0.6, *[0.02] * 19, 0.02]
TAIL = [0.01, 0.005, *[0.0] * 11, 0.001, 0.003]
POINTS = [GapPoint("1.5B", "0.5B", 38.2, 68.1), GapPoint("7B", "1.5B", 50.1, 70.2)]
FIGURES = {
    "radar": lambda: radar([*"xyz"], {"1.5B": {"SFT": [3952, 4.0, 7.7], "LightReasoner": [1000, 0.5, 11.8]}}),
    "pentagon": lambda: radar([*"abcde"], {"": {"full": [1, 2, 3, 4, 5], "none": [-1, 0, 0, 1, 2]}}, ["+.1f"] * 5),
    "histogram": lambda: kl_histogram(HISTOGRAM, TAIL, beta=0.4),
    "rollout": lambda: kl_along_rollout([Segment(["a", " b", "\n"], [0.1, 0.5, 2.98]), Segment(["c"], [0.2])], 0.4),
    "bars": lambda: grouped_bars(["GSM8K", "MATH"], {"1.5B": {"base": [42.5, 34.2], "tuned": [70.6, 59.3]}}),
    "scatter": lambda: gap_scatter(POINTS, {"1.5B": 52.7}),
    "curves": lambda: curves({"1.5B": ([0, 10], [0.2, 0.1]), "7B": ([0, 10], [0.3, 0.1])}, "step", "loss", "Training"),
}  # fmt: skip


def texts(svg: Path) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_saved_as_svg_and_png_with_its_data_and_always_the_same(name: str, tmp_path: Path) -> None:
    rows = [{"token": 'a, "b"\n', "kl": 0.1}, {"token": "π", "kl": 2.5}]
    files = save(FIGURES[name](), tmp_path / "new" / "figure.2", rows)
    assert [file.name for file in files] == ["figure.2.svg", "figure.2.png", "figure.2.csv", "figure.2.json"]
    assert json.loads(files[3].read_text()) == rows
    with files[2].open(newline="") as file:
        assert [{"token": row["token"], "kl": float(row["kl"])} for row in csv.DictReader(file)] == rows
    with Image.open(files[1]) as image:
        assert min(image.size) > 500
    again = save(FIGURES[name](), tmp_path / "again", rows)
    assert again[0].read_bytes() == files[0].read_bytes()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("radar", ["x", "3.95e+03 / 1e+03", "7.7 / 11.8", "SFT", "LightReasoner"]),
        ("pentagon", ["+1.0 / -1.0", "+5.0 / +2.0"]),
        ("histogram", ["60.0", "2.0+", "β = 0.4", "from 2 nats on, the last bar from 4.8"]),
        ("rollout", ["0.50", "2.98", "b", "↵", "c"]),
        ("bars", ["+28.1", "+25.1", "GSM8K", "tuned"]),
        ("scatter", ["expert 1.5B", "amateur 0.5B", "expert 7B"]),
        ("curves", ["1.5B", "7B", "step", "loss", "Training"]),
    ],
)
def test_a_figure_shows_its_numbers(name: str, expected: list[str], tmp_path: Path) -> None:
    found = texts(save(FIGURES[name](), tmp_path / "figure", [])[0])
    assert not [text for text in expected if text not in found], found


def test_bars_are_as_high_as_their_numbers() -> None:
    heights = [bar.get_height() for bar in FIGURES["histogram"]().axes[0].patches]
    assert heights == pytest.approx([100 * share for share in HISTOGRAM])
    assert [bar.get_height() for bar in FIGURES["bars"]().axes[0].patches] == [42.5, 34.2, 70.6, 59.3]
    line = FIGURES["curves"]().axes[0].lines[0]
    assert [*line.get_xdata()] == [0, 10]
    assert [*line.get_ydata()] == [0.2, 0.1]


def test_model_text_is_drawn_literally(tmp_path: Path) -> None:
    hostile = [r"$\frac{1}$", "<script>", "\x1b[31m", "&amp;"]
    figure: Figure = kl_along_rollout([Segment(hostile, [0.1] * 4)])
    found = texts(save(figure, tmp_path / "figure", [])[0])
    assert found[:4] == [r"$\frac{1}$", "<script>", "·[31m", "&amp;"]
    for element in ElementTree.parse(tmp_path / "figure.svg").iter():
        assert "script" not in element.tag


def test_too_few_axes_and_too_many_segments_are_refused() -> None:
    with pytest.raises(ValueError, match="three axes, and there are 2"):
        radar(["a", "b"], {"": {"x": [1, 2]}})
    with pytest.raises(ValueError, match="not 3"):
        kl_along_rollout([Segment(["a"], [0.1])] * 3)
