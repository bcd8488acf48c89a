"""Tokenizers of another family than the miniature's, with control tokens of their own.

Their chat template is the miniature's, which is rendered without a process of its own; `TEMPLATE` is another one.
"""

import json

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from lightreasoner.miniature import model_path

BUNDLED = (model_path("expert") / "chat_template.jinja").read_text(encoding="utf-8")
TEMPLATE = """{% for message in messages %}<{{ message.role }}>{{ message.content }}<eot>{% endfor %}<reply>"""
CONTROLS = ["<pad>", "<eot>", "<reply>"]
CORPUS = [
    "The total cost is 12 + 30 = 42 dollars, so the answer is \\boxed{42}.",
    "Ben has marbles. How many marbles are left? There are 14 marbles left in the box.",
    "Please reason step by step, and put the final answer in a box.",
    " ".join(map(str, range(10, 100))),
] * 20


def _wrapped(tokenizer: Tokenizer, template: str = BUNDLED) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eot>", pad_token="<pad>", chat_template=template
    )


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + len(CONTROLS),
        special_tokens=CONTROLS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([], trainer)
    return _wrapped(tokenizer)


def pair_tokenizer(template: str = BUNDLED) -> PreTrainedTokenizerFast:
    """Byte-level BPE with merges of its own, digits in groups of three, and a normaliser that composes characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}{1,3}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=480,
        special_tokens=CONTROLS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _wrapped(tokenizer, template)


def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """BPE as in Llama 2: spaces are ▁, one is put before each part of a text, and unknown characters are bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = [*CONTROLS, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=special, show_progress=False)
    words = [f"{text} {word}" for text in CORPUS[:3] for word in text.split()]
    tokenizer.train_from_iterator(words, trainer)
    parts = json.loads(tokenizer.to_str())
    parts["added_tokens"] = [token for token in parts["added_tokens"] if not token["content"].startswith("<0x")]
    return _wrapped(Tokenizer.from_str(json.dumps(parts)))


def llama_tokenizer(legacy: bool) -> PreTrainedTokenizerFast:
    """The same vocabulary as transformers makes a Llama of it: ▁ before the text, if `legacy` before each part."""
    made = json.loads(sentencepiece_tokenizer().backend_tokenizer.to_str())["model"]
    controls = {"<reply>": "<s>", "<eot>": "</s>"}
    vocab = {controls.get(piece, piece): index for piece, index in made["vocab"].items()}
    return LlamaTokenizer(vocab=vocab, merges=[tuple(pair) for pair in made["merges"]], legacy=legacy)


def unigram_tokenizer() -> PreTrainedTokenizerFast:
    """Unigram, as SentencePiece trains by default: whole words, ▁ before each part of a text."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=[*CONTROLS, "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator([*CORPUS, TEMPLATE], trainer)
    return _wrapped(tokenizer)
