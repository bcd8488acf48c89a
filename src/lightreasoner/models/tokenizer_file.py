"""The tokenizer that a model's tokenizer.json describes.

transformers 5 makes tokenizers of some classes anew from the vocabulary, with the normaliser and pre-tokenizer of the
class. Those of the file can be others, as in a model of Qwen2's architecture with a tokenizer of its own. Texts would
then have other ids than those that the model was trained on. Of a GGUF file it knows some of the ways of cutting texts,
and takes GPT-2's for all others.
"""

from functools import cache
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lightreasoner.models.source import ModelSource
from lightreasoner.runs.progress import warn_once

# What pre-tokenizers and normalisers treat differently: numbers, contractions, blanks, marks, case and accents. No
# control token and no space at the beginning: Llama's class treats them in its own way (`legacy`), as it should.
PROBES = (
    "The TOTAL isn't 1234567.89 (or 3/4): x^2 + 5x = 12,000\n\n\n  def f(x):\n\treturn  x_1**2  # ok?!\r\n",
    "Then a space; \\frac{1}{2} \\boxed{48.13} $-0.5 50% I'LL we've 2nd café cafe\u0301 ﬁ ½ ２ Å 三加五 🙂🙂 ...  ",
)

# GPT-2's way of cutting texts, or that with single digits, by the names of llama.cpp (src/llama-vocab.cpp). The merges
# of the latter join no digits, so the ids are the same but for some rare signs such as ½.
LIKE_GPT2 = (
    *("default", "gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion"),
    *("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"),
)


def as_written(tokenizer: PreTrainedTokenizerBase, source: ModelSource) -> PreTrainedTokenizerBase:
    """The tokenizer as transformers has loaded it, or as tokenizer.json writes it if that gives texts other ids."""
    if source.gguf_file:
        _warn_of_unknown_split(source)
        return tokenizer
    file, backend = source.folder / "tokenizer.json", getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer) or not file.is_file():
        return tokenizer
    ids = _written_ids(file, file.stat().st_mtime_ns)
    if _ids(tokenizer) == ids:
        return tokenizer
    exact: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(source.folder)
    if _ids(exact) == ids:
        return exact
    warn_once(
        f"{source.name}: transformers makes a {type(tokenizer).__name__} of tokenizer.json that gives texts other ids, "
        "so the model may read texts that it does not know. Check the file with its author"
    )
    return tokenizer


def _warn_of_unknown_split(source: ModelSource) -> None:
    try:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    except ImportError:  # its place in this release of transformers
        return
    split = source.config().get("gguf_split", LIKE_GPT2[0])
    if split not in (*LIKE_GPT2, *GGUF_PRE_TOKENIZER_SPLITS):
        warn_once(
            f"{source.name}: its tokenizer cuts texts in the way {split}, which transformers does not know, so some "
            "texts get other ids than in training. Use the model's folder with a tokenizer.json"
        )


@cache
def _written_ids(file: Path, modified: int) -> list[list[int]]:
    """The ids by the file alone, which takes half a second to read; `modified` is the time of its last change."""
    written = Tokenizer.from_file(str(file))
    written.no_truncation()
    written.no_padding()
    return [written.encode(text, add_special_tokens=False).ids for text in PROBES]


def _ids(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    return [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in PROBES]
