r"""Separate a model's answer from its thinking.

Models mark thinking with a pair of tags, and often only the closing one is in the response, because the prompt holds
the opening one. What stands in the thinking is no answer: `<think>Is it \boxed{5}? No.</think> It is 7.`
"""

import re

_OPENING = (
    r"<(?:think|thinking|thought|thoughts|reasoning|reason|scratchpad|reflection|analysis|seed:think)>",  # XML style
    r"◁think▷",  # Kimi
    r"\[THINK\]",  # Magistral
    r"<\|(?:begin_of_thought|thinking|think)\|>",
    r"<｜begin▁of▁thinking｜>",
    r"<unused94>",  # Gemma
    r"<\|channel\|>(?:analysis|commentary)\b(?:<\|message\|>)?",  # gpt-oss
)
_CLOSING = (
    r"</(?:think|thinking|thought|thoughts|reasoning|reason|scratchpad|reflection|analysis|seed:think)>",
    r"◁/think▷",
    r"\[/THINK\]",
    r"<\|(?:end_of_thought|/thinking|/think)\|>",
    r"<｜end▁of▁thinking｜>",
    r"<unused95>",
    r"<\|channel\|>final\b(?:<\|message\|>)?",
    r"(?<=\S)assistantfinal",  # gpt-oss, decoded without its special tokens
)
_TAG = re.compile(rf"(?P<opening>{'|'.join(_OPENING)})|(?P<closing>{'|'.join(_CLOSING)})", re.IGNORECASE)
_END = re.compile(
    r"</s>|<\|(?:im_end|endoftext|eot_id|end_of_text|return|end_of_solution)\|>|<end_of_turn>|<｜end▁of▁sentence｜>"
)
_WRAPPING = re.compile(
    r"</?(?:output|response|solution|result|final)>|<\|begin_of_solution\|>|<\|start\|>assistant|<\|end\|>"
)
_HTML = re.compile(
    r"</?(?:b|strong|em|i|u|p|div|span|mark|center|h[1-6])(?:\s[^<>]{0,200})?>|<br\s?/?>|&nbsp;", re.IGNORECASE
)
_CALCULATION = re.compile(r"<<[^<>\n]{0,100}>>")  # "48 + 24 = <<48+24=72>>72", the calculator notes of GSM8K
_CLOSING_BOX = re.compile(
    r"\\(?:boxed|fbox)\s*\{[^{}]*(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}[^{}]*)*\}[\s.$*]*(?:\\[\])][\s.]*)?\Z"
)
_LONGEST_BOX = 1000  # characters
_NEXT_TURN = re.compile(r"\n(?:Human|User):\s")  # base models go on with a turn of the user
_NEXT_QUESTION = re.compile(r"\n[ \t\r]*\n(?:Question|Problem|Q)\s?\d{0,3}:\s")  # or with a question of their own
_ANSWERED = re.compile(r"\banswer(?: is|:)|\\boxed|####", re.IGNORECASE)
# "Would you like to try problem 2?": what a model offers behind its answer.
_OFFER = re.compile(
    r"(?:^|(?<=[^\w\s,] ))\W{0,6}(?:would you like|do you want|want me to|shall I|(?:please )?let me know|feel free"
    r"|if you(?:'d| would)? (?:have|need|want|like) (?:any|more|further|other|another|to|me|help|\d+ more)\b"
    r"|(?:I )?hope (?:this|that|it|my|the) (?:\w+ )?(?:helps|is helpful))(?![^\n]*(?:boxed|####))[^\n]*\Z",
    re.IGNORECASE | re.MULTILINE,
)
_WORDS_OF_OFFERS = ("ould you", "you want", "ant me", "hall I", "et me know", "eel free", "f you", "ope ")
_MOST_OFFERS = 3
_LONGEST_OFFER = 1000  # characters


def visible_answer(text: str) -> str:
    """The text outside the thinking and calculator notes, up to the first end token, offer or turn of the user."""
    text = _outside_thinking(text)
    if "</" in text or "<br" in text or "&nbsp;" in text:
        text = _HTML.sub(" ", text)
    if ("\nHuman:" in text or "\nUser:" in text) and (turn := _NEXT_TURN.search(text)) and text[: turn.start()].strip():
        text = text[: turn.start()]
    if (again := _NEXT_QUESTION.search(text)) and _ANSWERED.search(text, 0, again.start()):
        text = text[: again.start()]
    for _ in range(_MOST_OFFERS):
        text = text.rstrip()
        start = max(text.rfind("\n") + 1, len(text) - _LONGEST_OFFER)
        if not any(text.find(word, start) >= 0 for word in _WORDS_OF_OFFERS):
            break
        offer = _OFFER.search(text, start)
        if offer is None or not text[: offer.start()].strip():
            break
        text = text[: offer.start()]
    return text


def _outside_thinking(text: str) -> str:
    """The text outside the thinking and calculator notes, up to the first end token.

    A closing tag without an opening one ends thinking that began in the prompt. An opening tag without a closing one
    begins thinking that was cut off. If nothing stands outside, a box that ends the thinking is the answer.
    """
    if "<<" in text:
        text = _CALCULATION.sub("", text)
    if "<" not in text and "◁" not in text and "[" not in text and "assistantfinal" not in text:
        return text
    outside: list[str] = []
    inside = ""
    position, thinking = 0, False
    for tag in _TAG.finditer(text):
        part = text[position : tag.start()]
        if tag["closing"] and not thinking:
            outside.clear()
        if thinking or tag["closing"]:
            inside = part
        else:
            outside.append(part)
        position, thinking = tag.end(), tag["opening"] is not None
    if position == 0:
        return _before_end(text)
    rest = text[position:]
    inside, outside = (rest, outside) if thinking else (inside, [*outside, rest])
    visible = _before_end("\n".join(outside))
    if visible.strip():
        return visible
    closing_box = _CLOSING_BOX.search(_before_end(inside)[-_LONGEST_BOX:])
    return closing_box[0] if closing_box else ""


def _before_end(text: str) -> str:
    text = _WRAPPING.sub("\n", text)
    parts = _END.split(text.lstrip())
    return next((part for part in parts if part.strip()), "")
