"""Ctrl-C and SIGTERM that wait for the end of a step or a save."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def deferred_signals() -> Iterator[Callable[[], bool]]:
    """Inside, the first SIGINT or SIGTERM is only noted; a second one raises KeyboardInterrupt at once.

    Yields a function that says whether one came. Signals that the process ignores stay ignored. Outside the main
    thread, where Python delivers no signals, nothing changes.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        # None is a handler that another language installed and Python cannot put back.
        previous = {n: handler for n, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
    for number in previous:
        signal.signal(number, note)
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
