"""A protection that is followed to its end: progress is told, work is saved, signals wait for a step to finish."""

import time

from pcs_ext.defense.engine import Progress, Protection
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.interruption import deferred_signals
from pcs_ext.reporter import Reporter

_SAVE_SECONDS = 45.0
_MANY = 0.1
"""Share of gradients that are exactly 0 in fp16, from which it is told."""
_UNDERFLOW = (
    "{share:.0%} of the gradients at the photos vanish in fp16, and what they belong to does not move: the protection "
    "will be weaker. Use --precision fp32, or bf16 where the machine has it."
)


def follow(protection: Protection, checkpoints: CheckpointFolder, reporter: Reporter, task: str) -> None:
    """Run to the end, saving now and then; Ctrl-C or SIGTERM lets a step finish, a second one ends at once."""
    running, saved = protection.run(), time.monotonic()
    progress: Progress | None = None
    whole = told = False
    try:
        while True:
            whole = False
            with deferred_signals() as interrupted:
                following = next(running, None)
            if following is None:
                return
            progress, whole = following, True
            if interrupted():
                raise KeyboardInterrupt
            if progress.zeros > _MANY and not told:
                told = True
                reporter.event("underflow", _UNDERFLOW.format(share=progress.zeros), share=progress.zeros)
            reporter.progress(task, progress.step, progress.total, gain=progress.gain)
            if progress.resumable and time.monotonic() - saved > _SAVE_SECONDS:
                checkpoints.save(progress.step, *protection.state())
                saved = time.monotonic()
    except KeyboardInterrupt:
        # In the middle of a step, or of a round whose surrogates forget, there is nothing worth saving.
        if progress is not None and progress.resumable and whole:
            checkpoints.save(progress.step, *protection.state())
        raise
