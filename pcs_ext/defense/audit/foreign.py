"""A stranger's words on the user's terminal: shown, and not obeyed."""

_LONGEST = 80
"""Characters of one name or phrase."""


def harmless(text: str) -> str:
    """What can be printed of a text: control characters, line ends and turns of the reading direction as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def told(text: str) -> str:
    """A name or phrase of a file, harmless and short, so that it cannot pass for lines of a report."""
    shown = harmless(text)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."
