"""Unpack the compressed log-probabilities that DistillKit's capture of a teacher writes.

Both codings keep the `k` most probable tokens of a position: the first `exact_k` values as they are, the others as a
curve with few coefficients. Written after the description in DistillKit's README and compared in a test with its own
code at commit a61c2e7. Here curves are computed in float32, there in the precision of their coefficients.
"""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field

from lightreasoner.config.base import Config
from lightreasoner.errors import ConfigError, DataError, SampleFormatError

SETTINGS_FILE = "compression_config.yaml"  # that the capture writes beside its data

Precision = Literal["float16", "bfloat16", "float32", "float64"]
Count = Annotated[int, Field(ge=1)]
Floats = NDArray[np.float32]


class Bin(Config):
    """Residuals behind the curve, as small integers with a common scale."""

    scale_dtype: Precision
    element_bits: Annotated[int, Field(ge=1, le=64)]
    num_elements: Count


class Quantised(Config):
    """DistillKit's `logprob_compressor`."""

    d: Count
    k: Count
    exact_k: Annotated[int, Field(ge=0)]
    exact_dtype: Precision = "float32"
    polynomial_terms: list[Literal["sqrt", "exp"] | int] | None = None
    term_dtype: Precision = "float32"
    residual_bins: list[Bin]
    delta_encoding: bool = True
    error_diffusion: bool = False
    normalize_t: bool = False

    def unpack(self, row: dict[str, Any]) -> tuple[NDArray[np.int64], Floats]:
        """Token ids and log-probabilities of a row, [T, k]."""
        content = _Bytes(np.asarray(row["compressed_logprobs"], np.uint8))
        exact = content.floats(self.exact_k, self.exact_dtype)
        places = np.arange(self.k - self.exact_k, dtype=np.float32)
        if self.normalize_t:
            places = np.linspace(0, 1, len(places), dtype=np.float32)
        rest = np.zeros((len(exact), len(places)), np.float32)
        if self.polynomial_terms:
            terms = [
                getattr(np, term)(places) if isinstance(term, str) else places**term for term in self.polynomial_terms
            ]
            rest += content.floats(len(terms), self.term_dtype) @ np.stack(terms)
        start = 0
        for part in self.residual_bins:
            scale = content.floats(1, part.scale_dtype)
            values = content.integers(part.num_elements, part.element_bits).astype(np.float32)
            signed = values * 2 - 1 if part.element_bits == 1 else values - 2 ** (part.element_bits - 1)
            rest[:, start : start + part.num_elements] += signed * scale
            start += part.num_elements
        values = np.concatenate([exact, rest], axis=1)
        if self.delta_encoding:
            values = np.cumsum(values, axis=1)
        bits = math.ceil(math.log2(self.d))
        return _Bytes(np.asarray(row["bytepacked_indices"], np.uint8)).integers(self.k, bits), values


class Legacy(Config):
    """DistillKit's `legacy_logit_compression`. Its values may be logits: their differences count."""

    vocab_size: Count
    k: Count
    exact_k: Annotated[int, Field(ge=0)]
    polynomial_degree: Annotated[int, Field(ge=0)]
    invert_polynomial: bool = True
    with_sqrt_term: bool = False
    term_dtype: Precision = "float32"

    def unpack(self, row: dict[str, Any]) -> tuple[NDArray[np.int64], Floats]:
        """Token ids and log-probabilities of a row, up to a constant, [T, k]."""
        packed = np.asarray(row["packed_indices"], np.uint64)
        bits = math.ceil(math.log2(self.vocab_size))
        shifts = np.arange(64 // bits, dtype=np.uint64) * np.uint64(bits)
        ids = (packed[:, :, None] >> shifts) & np.uint64(2**bits - 1)
        places = np.arange(1, self.k - self.exact_k + 1, dtype=np.float32)
        sign = -1 if self.invert_polynomial else 1
        terms = [places ** (sign * power) for power in range(self.polynomial_degree + 1)]
        if self.with_sqrt_term:
            terms.append(np.sqrt(places))
        exact = np.asarray(row["exact_values"], np.float32)
        coefficients = np.asarray(row["coeffs"], np.float32).reshape(len(exact), -1)
        rest = coefficients @ np.stack(terms) if len(places) else np.zeros((len(exact), 0), np.float32)
        return ids.reshape(len(packed), -1)[:, : self.k].astype(np.int64), np.concatenate([exact, rest], axis=1)


class _Bytes:
    """The bytes of each position, read from the left."""

    def __init__(self, content: NDArray[np.uint8]) -> None:
        self._content = content

    def _take(self, count: int) -> NDArray[np.uint8]:
        if count > self._content.shape[1]:
            raise ValueError(f"a position has {self._content.shape[1]} bytes where {count} more are needed")
        taken, self._content = self._content[:, :count], self._content[:, count:]
        return np.ascontiguousarray(taken)

    def floats(self, count: int, precision: Precision) -> Floats:
        """Numbers of a precision, little-endian, [T, count]."""
        if precision == "bfloat16":  # the upper half of a float32
            halves = self._take(2 * count).view("<u2").astype(np.uint32)
            return (halves << 16).view(np.float32)
        kind = np.dtype(precision).newbyteorder("<")
        return self._take(kind.itemsize * count).view(kind).astype(np.float32)

    def integers(self, count: int, bits: int) -> NDArray[np.int64]:
        """Integers of so many bits, the highest bit first, [T, count]."""
        found = np.unpackbits(self._take((count * bits + 7) // 8), axis=1)[:, : count * bits]
        powers = 2 ** np.arange(bits - 1, -1, -1, dtype=np.int64)
        values: NDArray[np.int64] = found.reshape(len(found), count, bits) @ powers
        return values


def read_settings(data: Path, file: Path | None) -> Quantised | Legacy | None:
    """How the data was compressed.

    Args:
        data: the file or folder with the data; by default `SETTINGS_FILE` in that folder is read.
        file: YAML file with these settings, or DistillKit's file of a training.

    Returns:
        None without a file.

    Raises:
        DataError, ConfigError: the file cannot be read, or a setting is missing, wrong or unknown.
    """
    beside = (data if data.is_dir() else data.parent) / SETTINGS_FILE
    if file is None and not beside.is_file():
        return None
    found = file or beside
    try:
        values = yaml.safe_load(found.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{found}: cannot be read as YAML ({error}). Check the file") from None
    if isinstance(values, dict) and isinstance(teacher := values.get("teacher"), dict):
        values = teacher.get("logprob_compressor") or teacher.get("legacy_logit_compression")
    if not isinstance(values, dict):
        raise DataError(f"{found} has no settings of a compression. Give the file that was used for the capture")
    try:
        return Legacy.checked(values) if "vocab_size" in values else Quantised.checked(values)
    except ConfigError as error:
        raise ConfigError(f"{found}: {error}") from None


def unpack(where: str, row: dict[str, Any], settings: Quantised | Legacy | None) -> tuple[Any, Any]:
    """Token ids and log-probabilities of each position of a row of DistillKit.

    Raises:
        SampleFormatError: the row has another form, or does not fit the settings.
    """
    there = {name for name, value in row.items() if value is not None}
    if {"token_ids", "top_values"} <= there:
        tokens, values = ([[] if one is None else one for one in row[name]] for name in ("token_ids", "top_values"))
        return tokens, values
    names = {"packed_indices", "exact_values", "coeffs"}
    kind: type[Quantised | Legacy] = Legacy if names <= there else Quantised
    if kind is Quantised and not {"compressed_logprobs", "bytepacked_indices"} <= there:
        raise SampleFormatError(
            f"{where}: no log-probabilities of DistillKit among the fields {', '.join(row)}: token_ids and top_values, "
            "or compressed ones. Name another format with --from"
        )
    if not isinstance(settings, kind):
        section = "legacy_logit_compression" if kind is Legacy else "logprob_compressor"
        raise SampleFormatError(
            f"{where}: the log-probabilities are compressed, and nothing says how. Give DistillKit's settings "
            f"({section}) with --compression, or put them beside the data as {SETTINGS_FILE}"
        )
    try:
        return settings.unpack(row)
    except (ValueError, TypeError, OverflowError) as error:
        raise SampleFormatError(
            f"{where}: does not fit the settings of its compression ({error}). Give those it was captured with"
        ) from None
