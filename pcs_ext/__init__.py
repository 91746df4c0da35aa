"""Teach a diffusion model your subject once; use it in images, video, 3D, vector art and panoramas.

import pcs_ext
rex = pcs_ext.learn("photos/", noun="dog", output="rex")
rex.generate("a photo of {subject} on the beach", seeds=[1, 2])[0].save("beach.png")
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Artifact", "__version__", "evaluate", "learn"]

if TYPE_CHECKING:
    from pcs_ext.evaluation import evaluate
    from pcs_ext.image.learn import learn
    from pcs_ext.image.subject import Artifact


def __getattr__(name: str) -> Any:
    # Loaded on first use: `import pcs_ext` and `pcs-ext --help` must not pay for torch.
    if name == "learn":
        from pcs_ext.image.learn import learn

        return learn
    if name == "evaluate":
        from pcs_ext.evaluation import evaluate

        return evaluate
    if name == "Artifact":
        from pcs_ext.image.subject import Artifact

        return Artifact
    raise AttributeError(f"module 'pcs_ext' has no attribute {name!r}")


def __dir__() -> list[str]:
    # What is loaded on first use belongs into completion and help from the beginning.
    return sorted({*globals(), *__all__})
