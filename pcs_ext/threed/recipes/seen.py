"""A 3D recipe that starts from one photo whose camera is known."""

import dataclasses
from typing import Literal

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.threed.field_stage import FieldStage
from pcs_ext.threed.mesh import MeshConfig
from pcs_ext.threed.view_guidance import ViewScore
from pcs_ext.threed.view_prompts import ViewWords


@config
class SeenTo3dRecipe:
    """From one cut-out photo to a mesh: the photo's own camera, an image model, and a view model (Animate124)."""

    kind: Literal["seen"] = "seen"
    """Tag of this recipe in JSON."""
    id: str
    """Key in `RECIPES`."""
    words: ViewWords = ViewWords()
    """How prompts say where the camera stands."""
    negative_prompt: str = ""
    """What to stay away from."""
    view: ViewScore = ViewScore()
    """How a view model judges, where the caller gives one."""
    field: FieldStage
    """The optimisation."""
    mesh: MeshConfig = MeshConfig(resolution=96, relative=0.5)
    """How the surface is cut out."""

    def validate(self) -> None:
        """Check what types cannot say.

        Raises:
            ConfigError: no known camera, or a guidance that trains something itself.
        """
        if self.field.known is None or self.field.guidance.kind != "score" or self.field.close_ups is not None:
            raise ConfigError(
                "a seen field needs the photo's camera (field.known), a guidance of kind score, no parts."
            )

    def with_steps(self, steps: int) -> "SeenTo3dRecipe":
        """The same recipe with so many steps of its field."""
        return dataclasses.replace(self, field=self.field.with_steps(steps))
