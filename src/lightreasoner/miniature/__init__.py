"""The bundled miniature: four tiny language models, their tokenizer, and their arithmetic word problems.

With it the whole method runs offline, on a CPU, in minutes. It shows the method's real behaviour, failures included,
but not the size of the effect on larger models.

`word_problems.py` generates the problems, `models/` holds the models, and `bench/train_miniature.py` trains them.
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
