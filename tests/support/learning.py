"""Trainings that end as soon as what a test asks of them is learned."""

from collections.abc import Callable, Iterable


def train_until(learned: Callable[[], bool] | None, training: Iterable[object], *, every: int) -> None:
    """Take the steps of a training: all of them, or until one finds it learned, asked after `every` so many."""
    for step, _ in enumerate(training, 1):
        if learned is not None and step % every == 0 and learned():
            return
