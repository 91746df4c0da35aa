"""Boxes for words of a prompt: reading, checking, and as weights of cells."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pcs_ext.config_io import config, read_json
from pcs_ext.errors import UsageError

_HOW = 'expected a phrase of the prompt and left, top, right, bottom in [0, 1], as in "robot: 0.1 0.2 0.5 0.9"'


@config
class Box:
    """Where something shall be."""

    phrase: str
    """Words of the prompt."""
    left: float
    top: float
    right: float
    bottom: float
    """Shares of the picture's width and height, in [0, 1]."""

    def __post_init__(self) -> None:
        ordered = 0 <= self.left < self.right <= 1 and 0 <= self.top < self.bottom <= 1
        if not self.phrase.strip() or not ordered:
            numbers = f"{self.left:g} {self.top:g} {self.right:g} {self.bottom:g}"
            raise UsageError(f"the box {self.phrase!r}: {numbers} is none; {_HOW}.")

    def coverage(self, height: int, width: int) -> Tensor:
        """`height width`: the share of every cell that lies in the box."""
        rows = _overlap(self.top * height, self.bottom * height, height)
        columns = _overlap(self.left * width, self.right * width, width)
        return rows[:, None] * columns


def _overlap(low: float, high: float, count: int) -> Tensor:
    starts = torch.arange(count, dtype=torch.float32)
    return (torch.clamp(starts + 1, max=high) - torch.clamp(starts, min=low)).clamp(0, 1)


def box_cells(box: Box, grid: tuple[int, int]) -> Tensor:
    """Which cells of a grid belong to a box, `rows columns` bool: at least half of them, else the fullest one."""
    share = box.coverage(*grid)
    return share >= min(0.5, float(share.max()))


def parse_box(text: str) -> Box:
    """A box from "PHRASE: LEFT TOP RIGHT BOTTOM".

    Raises:
        UsageError: it is none.
    """
    phrase, colon, rest = text.rpartition(":")
    numbers = [part for part in re.split(r"[\s,]+", rest.strip()) if part]
    try:
        left, top, right, bottom = (float(number) for number in numbers)
    except ValueError:
        raise UsageError(f"{text!r} is no box; {_HOW}.") from None
    if not colon:
        raise UsageError(f"{text!r} is no box; {_HOW}.")
    return Box(phrase=phrase.strip(), left=left, top=top, right=right, bottom=bottom)


def parse_place(text: str) -> Box:
    """A box from "LEFT TOP RIGHT BOTTOM", of whatever is placed.

    Raises:
        UsageError: it is none.
    """
    try:
        return parse_box(f"subject: {text}")
    except UsageError:
        raise UsageError(
            f'--box "{text}" is no place; expected LEFT TOP RIGHT BOTTOM in [0, 1], as in "0.3 0.4 0.7 0.9".'
        ) from None


def read_boxes(path: Path) -> list[Box]:
    """Boxes of a JSON file: `{"robot": [0.1, 0.2, 0.5, 0.9], ...}`.

    Raises:
        ConfigError: no JSON.
        UsageError: JSON of another kind.
    """
    data = read_json(path)
    if not isinstance(data, dict):
        raise UsageError(f'{path} holds no boxes; expected {{"robot": [0.1, 0.2, 0.5, 0.9], "cat": [...]}}.')
    boxes = []
    for phrase, numbers in data.items():
        if not isinstance(numbers, list) or len(numbers) != 4 or not all(_is_number(x) for x in numbers):
            raise UsageError(f"{path}: the box of {phrase!r} is {numbers!r}; {_HOW}.")
        boxes.append(Box(phrase=phrase, left=numbers[0], top=numbers[1], right=numbers[2], bottom=numbers[3]))
    return boxes


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_boxes(boxes: Sequence[Box]) -> None:
    """At least one box, and no phrase twice.

    Raises:
        UsageError: otherwise.
    """
    phrases = [box.phrase for box in boxes]
    if not boxes or len(set(phrases)) < len(phrases):
        raise UsageError(f"a layout needs boxes of different phrases, got {', '.join(phrases) or 'none'}; {_HOW}.")
