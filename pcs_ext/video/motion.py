"""A learned motion, on disk or in memory."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from pcs_ext.artifact import ArtifactData
from pcs_ext.config_io import from_jsonable
from pcs_ext.errors import ArtifactError, UsageError
from pcs_ext.image.adapters import AbstractAdapter, AdapterConfig, build_adapter
from pcs_ext.image.adapters.base import injected
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.backbones.inflated import InflatedBackbone
from pcs_ext.video.recipes import MotionRecipe
from pcs_ext.video.training import tell

_INFLATED = {
    None: "a model that makes clips by itself",
    "sparse-causal": "an image model inflated with sparse-causal attention",
    "causal": "an image model inflated with attention that looks back in time",
    "first": "an image model inflated with attention to the first frame",
}


CLIP = "clip"
"""Where a motion keeps the clip it starts from, beside its adapters."""


class Motion:
    """A learned motion on disk or in memory."""

    def __init__(self, data: ArtifactData) -> None:
        self.data = data
        self.recipe: MotionRecipe = from_jsonable(MotionRecipe, data.recipe, where="the motion's recipe")

    @classmethod
    def load(cls, path: str | Path) -> "Motion":
        """Read a folder written by `learn_motion`.

        Raises:
            ArtifactError: missing, corrupt, something else, or of an unknown version.
        """
        return cls(ArtifactData.load(Path(path), kind="motion"))

    @property
    def clip(self) -> Tensor | None:
        """Latents `1 c f h w` of the clip it was learned from, where clips of it start from its inverted noise."""
        kept = self.data.tensors.get(CLIP)
        return None if kept is None else kept["latents"][None]

    @property
    def origin(self) -> dict[str, str | None]:
        """`base` and `motion_module` that it was learned on, as `load_video_backbone` takes them."""
        return {key: self.data.concept.get(key) for key in ("base", "motion_module")}

    @contextlib.contextmanager
    def applied(
        self, backbone: AbstractVideoBackbone, *, scale: float = 1.0, look: Tensor | None = None
    ) -> Iterator[tuple[AbstractAdapter, ...]]:
        """Put this motion into the backbone, and yield its adapters; on exit the backbone is as before, bit for bit.

        Subjects of the core may be applied at the same time: they go into other layers, or stack.

        Args:
            backbone: of the kind the motion was learned on.
            scale: strength, 1 as trained.
            look: embedding `1 d` of what clips should look like, for motions whose recipe is `told`; None: left open.

        Raises:
            ArtifactError: the motion was learned on a backbone of another kind.
        """
        if type(backbone).__name__ != self.data.concept["backbone"]:
            raise ArtifactError(
                f"this motion was learned on {self.data.concept['backbone']} ({self.data.base_name}), "
                f"{backbone.name} is {type(backbone).__name__}; learn it again there."
            )
        check_inflation(self.recipe, backbone)
        adapters = []
        for name in self.recipe.plays:
            adapter = build_adapter(name, from_jsonable(AdapterConfig, self.data.adapters[name], where=name))
            adapter.load_state_dict(self.data.tensors_of(name))
            adapters.append(adapter)
        tell(adapters, look)
        with injected(backbone, *adapters):
            for adapter in adapters:
                adapter.set_scale(scale)
            yield tuple(adapters)


def check_inflation(recipe: MotionRecipe, backbone: AbstractVideoBackbone) -> None:
    """Whether frames see each other in the backbone as the recipe needs it.

    Raises:
        UsageError: an image model must be inflated for it, in another way, or not at all.
    """
    got = backbone.attention if isinstance(backbone, InflatedBackbone) else None
    if got != recipe.inflation:
        raise UsageError(
            f"{recipe.id} needs {_INFLATED[recipe.inflation]}, got {_INFLATED[got]}; load the base with "
            f"inflation={recipe.inflation!r}."
        )
