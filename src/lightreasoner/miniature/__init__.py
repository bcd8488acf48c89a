"""The bundled miniature: four tiny language models, their tokenizer, and the arithmetic they speak.

Everything here exists so that the whole method runs offline, on a CPU, in minutes. It shows the
method's real behaviour, failures included; it says nothing about the size of the effect on models
that people use.

`word_problems.py` makes the problems, `corpus.py` the texts the models were trained on, `train.py`
trained them, and `models/` holds what came out.
"""

from pathlib import Path

MODELS = ("base", "expert", "small", "instruct")


def model_path(name: str) -> Path:
    """Folder of a bundled miniature model.

    Args:
        name: one of `MODELS`.

    Raises:
        KeyError: there is no such model.
    """
    if name not in MODELS:
        raise KeyError(name)
    return Path(__file__).parent / "models" / name
