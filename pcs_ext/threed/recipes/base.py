"""A 3D recipe is a value: which stages, which guidance, which fields, and the mesh at the end."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Literal, TypeAlias

from pydantic import Discriminator

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.recipes import Preset
from pcs_ext.threed.avatar.pose_training import PoseStage
from pcs_ext.threed.avatar.view_painting import PaintingConfig
from pcs_ext.threed.edit_refine import RefineConfig
from pcs_ext.threed.edit_stage import EditStage
from pcs_ext.threed.field_stage import FieldStage
from pcs_ext.threed.guidance import SingleViews
from pcs_ext.threed.localization import LocalizationConfig
from pcs_ext.threed.mesh import MeshConfig
from pcs_ext.threed.motion_stage import MotionStage
from pcs_ext.threed.pseudo_views import PseudoViewConfig
from pcs_ext.threed.recipes.seen import SeenTo3dRecipe
from pcs_ext.threed.relearn import RelearnConfig
from pcs_ext.threed.splat_fit import SplatFit
from pcs_ext.threed.surface_stage import SurfaceStage
from pcs_ext.threed.texture_stage import TextureStage
from pcs_ext.threed.triplane.gan_stage import GanStage
from pcs_ext.threed.triplane.view_data import ViewDataConfig
from pcs_ext.threed.turned_views import ShapeWordConfig, TurnConfig
from pcs_ext.threed.view_prompts import ViewWords

Effort = Literal["fast", "balanced", "paper"]
"""fast: to see that it works; balanced: what two CPU cores do in minutes; paper: the paper's numbers of steps."""


@config
class TextTo3dRecipe:
    """From a prompt to a mesh: one field, one score."""

    kind: Literal["text"] = "text"
    """Tag of this recipe in JSON."""
    id: str
    """Key in `RECIPES`."""
    words: ViewWords = ViewWords()
    """How prompts say where the camera stands."""
    negative_prompt: str = ""
    """What to stay away from."""
    joint: bool = False
    """Views of a set are judged together by a multi-view adapter: the base's own, or one that the caller names."""
    relearn: RelearnConfig | None = None
    """How the subject is learned anew where the caller gives its photos; None: it is taken as it was learned."""
    single: SingleViews | None = None
    """The subject judges single views beside a joint score without it; None: it is in the joint model."""
    field: FieldStage
    """The optimisation."""
    mesh: MeshConfig = MeshConfig(resolution=96, relative=0.5)
    """How the surface is cut out."""

    def validate(self) -> None:
        """Check what types cannot say.

        Raises:
            ConfigError: a joint score of single views or of a second model, or single views beside no joint score.
        """
        if self.joint and self.field.cameras.views < 2:
            raise ConfigError("a joint score needs sets of views; set field.cameras.views to 4.")
        if self.joint and (kind := self.field.guidance.kind) != "score":
            raise ConfigError(f"views are judged together by a guidance of kind score, got {kind}; or set joint false.")
        if self.single is not None and not self.joint:
            raise ConfigError("single views are judged beside a joint score: set joint, and a guidance of kind score.")

    def with_steps(self, steps: int) -> "TextTo3dRecipe":
        """The same recipe with so many steps of its field."""
        return dataclasses.replace(self, field=self.field.with_steps(steps))


@config
class PhotosTo3dRecipe:
    """From photos to a mesh in DreamBooth3D's three stages."""

    kind: Literal["photos"] = "photos"
    """Tag of this recipe in JSON."""
    id: str
    """Key in `RECIPES`."""
    words: ViewWords = ViewWords()
    """How prompts say where the camera stands."""
    negative_prompt: str = ""
    """What to stay away from."""
    partial_share: float = 150 / 800
    """Of the learned subject's steps, what the partial model gets (the paper: 150 of 800)."""
    initial: FieldStage
    """Stage 1: a field from the partial model."""
    pseudo: PseudoViewConfig = PseudoViewConfig()
    """Stage 2: its renders, made to look like the subject by the full model."""
    multiview_share: float = 150 / 800
    """Of the learned subject's steps, what the partial model gets on photos and pseudo views (the paper: 150)."""
    final: FieldStage
    """Stage 3: a field from that model, close to the pseudo views."""
    final_start: Literal["initial", "blank"] = "initial"
    """Where it starts: at stage 1's field or anew. The paper's choice was not read."""
    mesh: MeshConfig = MeshConfig(resolution=96, relative=0.5)
    """How the surface is cut out."""

    def validate(self) -> None:
        """Check what types cannot say.

        Raises:
            ConfigError: shares out of range, or a field that cannot be handed on.
        """
        if not (0 < self.partial_share <= 1 and 0 < self.multiview_share <= 4):
            raise ConfigError(
                f"partial_share {self.partial_share} or multiview_share {self.multiview_share} is out of range; "
                "expected shares of the subject's steps in (0, 1] and (0, 4]."
            )
        if self.final_start == "initial" and self.final.field != self.initial.field:
            raise ConfigError("final.field must be initial.field when the final stage starts there; copy it.")

    def with_steps(self, steps: int) -> "PhotosTo3dRecipe":
        """The same recipe with so many steps of both fields together."""
        scale = steps / (self.initial.fit.steps + self.final.fit.steps)
        initial, final = (
            stage.with_steps(max(1, round(stage.fit.steps * scale))) for stage in (self.initial, self.final)
        )
        return dataclasses.replace(self, initial=initial, final=final)


@config
class RefinedTo3dRecipe:
    """From a prompt to a mesh in Magic3D's two stages: a field, then the surface cut out of it."""

    kind: Literal["refined"] = "refined"
    """Tag of this recipe in JSON."""
    id: str
    """Key in `RECIPES`."""
    words: ViewWords = ViewWords()
    """How prompts say where the camera stands."""
    negative_prompt: str = ""
    """What to stay away from."""
    coarse: FieldStage
    """The first stage."""
    fine: SurfaceStage
    """The second, at a higher resolution."""
    mesh: MeshConfig = MeshConfig(relative=0.5)
    """Where the first surface is cut out of the field; its resolution is not read: the surface's grid has one."""

    def validate(self) -> None:
        """Check what types cannot say.

        Raises:
            ConfigError: the two stages live in different cubes, or the materials cannot take the field's colours.
        """
        if self.coarse.field.bounds != self.fine.surface.bounds:
            raise ConfigError("fine.surface.bounds must be coarse.field.bounds; copy them.")
        if self.fine.surface.materials.kind != "voxel":
            raise ConfigError("fine.surface.materials start with the field's colours, which needs kind voxel.")

    def with_steps(self, steps: int) -> "RefinedTo3dRecipe":
        """The same recipe with so many steps of both stages together."""
        scale = steps / (self.coarse.fit.steps + self.fine.fit.steps)
        coarse, fine = (max(1, round(stage.fit.steps * scale)) for stage in (self.coarse, self.fine))
        return dataclasses.replace(self, coarse=self.coarse.with_steps(coarse), fine=self.fine.with_steps(fine))


@config
class PhotoTo3dRecipe:
    """From one photo to a mesh by two tokens: what the thing is, and what shape it has (Consist3D)."""

    kind: Literal["photo"] = "photo"
    """Tag of this recipe in JSON."""
    id: str
    """Key in `RECIPES`."""
    words: ViewWords = ViewWords()
    """How prompts say where the camera stands."""
    negative_prompt: str = ""
    """What to stay away from."""
    turn: TurnConfig = TurnConfig()
    """Where the photo is seen from while the second token is learned."""
    shape_word: ShapeWordConfig
    """How it is learned."""
    field: FieldStage
    """The optimisation, by both tokens."""
    mesh: MeshConfig = MeshConfig(resolution=96, relative=0.5)
    """How the surface is cut out."""

    def validate(self) -> None:
        """Nothing that types do not say."""

    def with_steps(self, steps: int) -> "PhotoTo3dRecipe":
        """The same recipe with so many steps of its field."""
        return dataclasses.replace(self, field=self.field.with_steps(steps))


@config
class AvatarTo3dRecipe:
    """From two subjects, a body and its head, to a mesh: one surface, two models in turn (AvatarBooth)."""

    kind: Literal["avatar"] = "avatar"
    """Tag of this recipe in JSON."""
    id: str
    """Key in `RECIPES`."""
    words: ViewWords = ViewWords()
    """How prompts say where the camera stands."""
    negative_prompt: str = ""
    """What to stay away from."""
    head_prompt: str = "a photo of the head of {subject}"
    """What close-ups are to show; view words are appended."""
    field: FieldStage
    """The optimisation."""
    mesh: MeshConfig = MeshConfig(resolution=128, threshold=1000.0, relative=0.5)
    """How the surface is cut out; half of the greatest density is where a distance is 0."""

    def validate(self) -> None:
        """Check what types cannot say.

        Raises:
            ConfigError: no close-ups, or a guidance that trains something itself.
        """
        if self.field.close_ups is None or self.field.guidance.kind != "score":
            raise ConfigError("an avatar's field needs close_ups of the head and a guidance of kind score.")

    def with_steps(self, steps: int) -> "AvatarTo3dRecipe":
        """The same recipe with so many steps of its field."""
        return dataclasses.replace(self, field=self.field.with_steps(steps))


@config
class TextureRecipe:
    """From a mesh to the same mesh with another look: a recipe of `3d texture`."""

    kind: Literal["texture"] = "texture"
    """Tag of this recipe in JSON."""
    id: str
    """Key in `RECIPES`."""
    words: ViewWords = ViewWords()
    """How prompts say where the camera stands."""
    negative_prompt: str = ""
    """What to stay away from; read only with guidance."""
    stage: TextureStage
    """The optimisation."""

    def validate(self) -> None:
        """Nothing that types do not say."""

    def with_steps(self, steps: int) -> "TextureRecipe":
        """The same recipe with so many steps."""
        return dataclasses.replace(self, stage=self.stage.with_steps(steps))


@config
class EditRecipe:
    """From a scene to the same scene with something new in a box: a recipe of `3d edit`."""

    kind: Literal["edit"] = "edit"
    """Tag of this recipe in JSON."""
    id: str
    """Key in `RECIPES`."""
    words: ViewWords = ViewWords()
    """How prompts say where the camera stands."""
    negative_prompt: str = ""
    """What to stay away from."""
    scene: SplatFit
    """How the scene becomes splats."""
    place: LocalizationConfig
    """How the base learns the scene and the place."""
    stage: EditStage
    """How the box is filled."""
    refine: RefineConfig
    """How what is in it is refined."""

    def validate(self) -> None:
        """Nothing that types do not say."""

    def with_steps(self, steps: int) -> "EditRecipe":
        """The same recipe with so many steps of place, edit and refinement together; the scene's splats keep theirs."""
        place, stage, refine = self.place.fit, self.stage.fit, self.refine.pictures.fit
        scale = steps / (place.steps + stage.steps + refine.steps)
        place, stage, refine = (
            dataclasses.replace(fit, steps=max(1, round(fit.steps * scale))) for fit in (place, stage, refine)
        )
        pictures = dataclasses.replace(self.refine.pictures, fit=refine)
        return dataclasses.replace(
            self,
            place=dataclasses.replace(self.place, fit=place),
            stage=dataclasses.replace(self.stage, fit=stage),
            refine=dataclasses.replace(self.refine, pictures=pictures),
        )


@config
class AnimateRecipe:
    """From a still scene to a moving one: a recipe of `3d animate`."""

    kind: Literal["animate"] = "animate"
    """Tag of this recipe in JSON."""
    id: str
    """Key in `RECIPES`."""
    words: ViewWords = ViewWords()
    """How prompts of single frames say where the camera stands; those of clips do not."""
    negative_prompt: str = ""
    """What to stay away from."""
    stage: MotionStage
    """The optimisation."""

    def validate(self) -> None:
        """Nothing that types do not say."""

    def with_steps(self, steps: int) -> "AnimateRecipe":
        """The same recipe with so many steps."""
        return dataclasses.replace(self, stage=self.stage.with_steps(steps))


@config
class PosedRecipe:
    """From words and a figure to the figure in a pose, and in its surroundings: a recipe of `3d avatar`."""

    kind: Literal["posed"] = "posed"
    """Tag of this recipe in JSON."""
    id: str
    """Key in `RECIPES`."""
    words: ViewWords = ViewWords()
    """How prompts say where the camera stands while the figure is painted."""
    poses: PoseStage
    """How the model of poses is trained: `3d learn-poses`."""
    pose_steps: int = 50
    """Denoising steps of a pose."""
    pose_guidance: float = 2.5
    """Classifier-free guidance of a pose, 1 = off."""
    body: int = 96
    """Samples per side that the capsule body is cut out of, where no other figure is given."""
    painting: PaintingConfig = PaintingConfig()
    """How that body gets the subject's look."""
    view: tuple[float, float] = (25.0, 8.0)
    """Azimuth and elevation of the picture of the figure in its surroundings, degrees."""

    def validate(self) -> None:
        """Check what types cannot say.

        Raises:
            ConfigError: numbers out of range.
        """
        if self.pose_steps < 2 or not 24 <= self.body <= 256 or not -90 <= self.view[1] <= 90:
            raise ConfigError(
                f"expected 2 pose_steps or more, a body of 24 to 256 samples and an elevation in [-90, 90], got "
                f"{self.pose_steps}, {self.body} and {self.view}."
            )

    def with_steps(self, steps: int) -> "PosedRecipe":
        """The same recipe with so many steps of its pose model's training."""
        return dataclasses.replace(self, poses=self.poses.with_steps(steps))


@config
class GeneratorRecipe:
    """From stylised views to a generator of 3D objects: a recipe of `3d learn-generator`."""

    kind: Literal["generator"] = "generator"
    """Tag of this recipe in JSON."""
    id: str
    """Key in `RECIPES`."""
    words: ViewWords = ViewWords()
    """How prompts say where the camera stands."""
    data: ViewDataConfig
    """The pictures."""
    gan: GanStage
    """The training."""

    def validate(self) -> None:
        """Nothing that types do not say."""

    def with_steps(self, steps: int) -> "GeneratorRecipe":
        """The same recipe with so many steps of its generator."""
        return dataclasses.replace(self, gan=self.gan.with_steps(steps))


AnyRecipe3d: TypeAlias = (
    TextTo3dRecipe | PhotosTo3dRecipe | PhotoTo3dRecipe | AvatarTo3dRecipe | RefinedTo3dRecipe | SeenTo3dRecipe
)
"""A recipe of `3d make`."""
Recipe3d: TypeAlias = Annotated[AnyRecipe3d, Discriminator("kind")]
"""Every 3D recipe; the field `kind` says which one a JSON object is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipeEntry3d:
    """What `RECIPES` holds."""

    id: str
    summary: str
    """One line for lists."""
    paper: str
    """Where it is described."""
    system: str
    """Row of the survey: an id of `systems.json`; empty for baselines without one."""
    build: Callable[
        [Preset, Effort],
        AnyRecipe3d | TextureRecipe | EditRecipe | AnimateRecipe | PosedRecipe | GeneratorRecipe,
    ]
    """`(preset of the base, effort) -> recipe`."""
