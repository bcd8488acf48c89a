"""The bundled miniatures: two sets of tiny language models, their tokenizer, and their arithmetic word problems.

With them the whole method runs offline, on a CPU, in minutes. They show the method's real behaviour, failures included,
but not the size of the effect on larger models.

`word_problems.py` generates the problems, `models/` holds the models, and `bench/train_miniature.py` trains them. The
figures of the second set are closer to those of the paper's models (docs/beyond.md).
"""

from pathlib import Path

MODELS = ("base", "expert", "small", "instruct")
MODELS2 = ("base", "expert", "instruct")
_SETS = {"miniature": ("models", MODELS), "miniature2": ("models/miniature2", MODELS2)}
BUNDLED = tuple(f"{collection}/{name}" for collection, (_, names) in _SETS.items() for name in names)


def model_path(name: str) -> Path:
    """Folder of a bundled model.

    Args:
        name: one of `BUNDLED`, or a name of the first set alone.

    Raises:
        KeyError: there is no such model.
    """
    collection, _, member = name.rpartition("/")
    folder, names = _SETS[collection or "miniature"]
    if member not in names:
        raise KeyError(name)
    return Path(__file__).parent / folder / member


def is_bundled(name: str) -> bool:
    """Whether a name belongs to the bundled sets, also if there is no such model in them."""
    return name.partition("/")[0] in _SETS
