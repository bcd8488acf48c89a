"""How transformers reads GGUF files here: more quickly, and with a progress bar on terminals only.

The package `gguf` makes NumPy arrays of every value in an array. A vocabulary of 150,000 tokens and as many merges take
it 10 to 20 seconds, and transformers reads them once each for tokenizer, configuration and weights.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import gguf
import numpy as np
from gguf import GGUFReader, GGUFValueType
from transformers import modeling_gguf_pytorch_utils


class QuickReader(GGUFReader):
    """A `GGUFReader` that reads the values of an array at once.

    The parts of a field of texts are `bytes`, not arrays of them; all else is as `GGUFReader` makes it.
    """

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list[Any], list[int], list[GGUFValueType]]:
        slow = super()._get_field_parts
        if raw_type != GGUFValueType.ARRAY or self.byte_order == "S":  # S: another byte order than this machine's
            return slow(orig_offs, raw_type)
        kind, length = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)
        start, count = int(orig_offs) + 12, int(length[0])
        parts: list[Any] = [kind, length]
        if not count:
            return slow(orig_offs, raw_type)
        if (number := self.gguf_scalar_to_np.get(GGUFValueType(kind[0]))) is not None:
            values = self._get(start, number, count)
            if len(values) < count:
                raise ValueError("an array is longer than the file")
            parts.extend(values.reshape(-1, 1))
            end = start + int(values.nbytes)
        elif kind[0] == GGUFValueType.STRING:
            end = start
            content = memoryview(self.data)  # type: ignore[arg-type] # an array is a buffer
            for _ in range(count):
                text = end + 8
                end = text + int.from_bytes(content[end:text], sys.byteorder)
                if end > len(content):
                    raise ValueError("a text is longer than the file")
                parts.append(content[text:end].tobytes())
        else:
            return slow(orig_offs, raw_type)
        return end - int(orig_offs), parts, list(range(2, 2 + count)), [GGUFValueType.ARRAY, GGUFValueType(kind[0])]


@contextmanager
def reading_gguf() -> Iterator[None]:
    """Where transformers reads a GGUF file. It has no settings for these, so names of its modules are replaced."""
    names: Any = gguf  # transformers imports them when it reads a file
    loader: Any = modeling_gguf_pytorch_utils
    before = names.GGUFReader, names.get_tensor_name_map, loader.tqdm
    names.GGUFReader = QuickReader
    names.get_tensor_name_map = cache(gguf.get_tensor_name_map)  # transformers makes one for each module
    loader.tqdm = loader.tqdm if sys.stderr.isatty() else partial(loader.tqdm, disable=True)
    try:
        yield
    finally:
        names.GGUFReader, names.get_tensor_name_map, loader.tqdm = before
