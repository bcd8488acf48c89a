"""Text for a terminal."""

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
    """Escape control characters, so that text from models, files and servers cannot control the terminal.

    These are C0 and C1 except line break and tab, and the characters that change the writing direction. JSON stays
    valid JSON.
    """
    return text.translate(_CONTROLS)


def size(count: float) -> str:
    """A number of bytes with its unit, such as 1.5 GB."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
