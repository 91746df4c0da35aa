"""The loss of every step on disk beside the checkpoints: a resumed run knows what came before it."""

import json
from pathlib import Path


class LossLog:
    """Appends one JSON line per step.

    Args:
        path: of the file; its folder is made when needed.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Every line reaches the system as it is written: what a killed process leaves is whole lines but the last.
        self._file = path.open("a+", encoding="utf-8", buffering=1)
        if self._file.tell() and not path.read_bytes().endswith(b"\n"):
            self._file.write("\n")

    def add(self, phase: str, step: int, loss: float) -> None:
        """Note one step; a step that is done again after a rollback replaces its former entry."""
        self._file.write(json.dumps([phase, step, loss]) + "\n")

    def losses(self, phases: dict[str, int]) -> list[float]:
        """Losses in order of phases and steps.

        Args:
            phases: name -> steps that were done; later entries belong to an abandoned run and are left out.
        """
        self._file.seek(0)
        known: dict[tuple[str, int], float] = {}
        for line in self._file.read().splitlines():
            try:
                phase, step, loss = json.loads(line)
            except ValueError:
                continue  # cut off by a kill; the step was done again
            known[phase, step] = loss
        return [known[name, s] for name, steps in phases.items() for s in range(1, steps + 1) if (name, s) in known]

    def close(self) -> None:
        """Close the file."""
        self._file.close()
