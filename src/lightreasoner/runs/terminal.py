"""Text for a person at a terminal."""

_CONTROLS = {
    code: f"\\u{code:04x}"
    for code in (
        *range(0x20),
        *range(0x7F, 0xA0),
        0x200B,
        0x200E,
        0x200F,
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
    )
    if chr(code) not in "\n\t"
}


def visible(text: str) -> str:
    """The text with control characters spelt out: words of models, files and servers must not steer a terminal.

    That is all of C0 and C1 but line break and tab, and what turns the direction of writing. What
    JSON escapes stays JSON.
    """
    return text.translate(_CONTROLS)


def size(count: float) -> str:
    """Bytes in words."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
