"""Lines of other tools: what is wrong is named with file, line, field and value."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import pytest
from pydantic import Field, model_validator

from lightreasoner.data.lines import Line, Text, expected, parse_line, rows_of, short
from lightreasoner.errors import DataError, SampleFormatError


class Sample(Line):
    error: ClassVar[type[DataError]] = SampleFormatError

    step: Annotated[int, Field(ge=0), expected("a whole number from 0 on")]
    text: Annotated[Text, expected("a text")] = ""
    weights: list[Annotated[float, expected("a finite number")]] = []
    scores: Annotated[list[bool], expected("a list of true and false")] = []

    @model_validator(mode="after")
    def _not_three(self) -> Self:
        if len(self.weights) == 3:
            raise ValueError("three weights are one too many. Remove one")
        return self


def checked(**fields: Any) -> Sample:
    return Sample.checked(("a.jsonl, line 7", fields))


def test_a_line_becomes_its_model_and_further_fields_are_ignored() -> None:
    assert checked(step=3, weights=[1, 0.5], more="x") == Sample(step=3, weights=[1.0, 0.5])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"step": -1}, "step is -1, not a whole number from 0 on. Mend or remove the line"),
        ({"step": True}, "step is True, not a whole number from 0 on. Mend or remove the line"),
        ({"step": "1"}, "step is '1', not a whole number from 0 on. Mend or remove the line"),
        ({"step": 1, "text": "\ud800"}, r"text is '\ud800', not a text. Mend or remove the line"),
        ({"step": 1, "weights": [1, float("nan")]}, "weights[1] is nan, not a finite number. Mend or remove the line"),
        ({"step": 1, "scores": [1]}, "scores is [1], not a list of true and false. Mend or remove the line"),
        ({"step": 1, "weights": [1, 2, 3]}, "three weights are one too many. Remove one"),
        ({"text": "x"}, "no field step among ['text']; every line needs it. Mend or remove the line"),
    ],
)
def test_a_wrong_field_is_named_with_its_value(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SampleFormatError) as caught:
        checked(**fields)
    assert str(caught.value) == f"a.jsonl, line 7: {message}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", "empty"),
        (b"{", "not JSON in UTF-8"),
        (b"\xff", "not JSON in UTF-8"),
        (b"[" * 100_000, "not JSON in UTF-8"),
        (b"[1]", "a list, not a JSON object"),
    ],
)
def test_a_line_that_is_no_object_is_named(line: bytes, message: str) -> None:
    with pytest.raises(DataError, match=f"^x, line 1: {message}"):
        parse_line("x, line 1", line)


def test_lines_are_read_one_by_one_and_numbered() -> None:
    def lines() -> Iterator[bytes]:
        yield b'{"a": 1}'
        raise AssertionError("read too far")

    assert next(rows_of("f", lines())) == ("f, line 1", {"a": 1})


def test_a_value_in_a_message_is_short(tmp_path: Path) -> None:
    assert len(short(["x" * 10_000] * 10_000)) < 1000
