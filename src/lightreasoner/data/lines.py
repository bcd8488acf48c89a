"""Lines of JSON that other tools wrote: parsed and checked, with errors that name file, line and field."""

import json
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, WrapValidator
from pydantic_core import PydanticCustomError

from lightreasoner.errors import DataError

Row = tuple[str, Mapping[str, Any]]  # file and line, for messages; the fields

_shortener = reprlib.Repr()
_shortener.maxstring = _shortener.maxother = 80


def short(value: Any) -> str:
    """A value as a message shows it, whatever its length."""
    return _shortener.repr(value)


def rows_of(name: str, lines: Iterable[bytes]) -> Iterator[Row]:
    """The rows of a JSON-lines file of this name; see `parse_line`."""
    return (parse_line(f"{name}, line {number}", line) for number, line in enumerate(lines, 1))


def parse_line(where: str, line: bytes) -> Row:
    """A line as a row.

    Raises:
        DataError: the line is not one JSON object; the message begins with `where`.
    """
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        reason = "empty" if not line.strip() else "not JSON in UTF-8"
        raise DataError(f"{where}: {reason}; every line must be one JSON object. Mend or remove the line") from None
    return checked_row(where, fields)


def checked_row(where: str, fields: Any) -> Row:
    """Parsed JSON as a row.

    Raises:
        DataError: it is not an object.
    """
    if not isinstance(fields, dict):
        raise DataError(f"{where}: a {type(fields).__name__}, not a JSON object. Mend or remove it")
    return where, fields


class Line(BaseModel):
    """Base of the models of such lines: strict types, further fields ignored.

    `expected` says in words what a field must be. A validator that raises `ValueError` words its own remedy.

    Attributes:
        remedy: what to do about a wrong value.
        remedy_if_missing: why a field is needed, and what to do if it is missing.
        error: class of the errors.
    """

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)
    remedy: ClassVar[str] = "Mend or remove the line"
    remedy_if_missing: ClassVar[str] = "every line needs it. Mend or remove the line"
    error: ClassVar[type[DataError]] = DataError

    @classmethod
    def checked(cls, row: Row, context: Any = None) -> Self:
        """The model of a row.

        Raises:
            DataError: names file, line, field, value and what the value must be.
        """
        where, fields = row
        try:
            return cls.model_validate(fields, context=context)
        except ValidationError as error:
            found = error.errors(include_url=False)
        if missing := [str(one["loc"][0]) for one in found if one["type"] == "missing"]:
            names = f"no field {', '.join(missing)} among {short(list(fields))}"
            raise cls.error(f"{where}: {names}; {cls.remedy_if_missing}")
        first = found[0]
        name = "".join(f"[{part}]" if isinstance(part, int) else str(part) for part in first["loc"])
        value = f"{name} is {short(first['input'])}" if name else ""
        if first["type"] == "value_error":
            raise cls.error(f"{where}: {value}{value and '; '}{first['ctx']['error']}")
        raise cls.error(f"{where}: {value}, {first['msg']}. {cls.remedy}")


def expected(what: str) -> WrapValidator:
    """Put around the type of a field or of its items: the error reads `NAME is VALUE, not WHAT`."""

    def check(value: Any, validate: Any) -> Any:
        try:
            return validate(value)
        except ValidationError:
            raise PydanticCustomError("expected", "not {what}", {"what": what}) from None

    return WrapValidator(check)


def _encodable(text: str) -> str:
    text.encode()  # raises a ValueError for half of a surrogate pair, which JSON can spell and UTF-8 cannot
    return text


Text = Annotated[str, AfterValidator(_encodable)]  # a text that can be stored
