"""What `benchmarks.edit_systems` asks of ways to draw two learned subjects in one picture."""

import dataclasses
import itertools

from torch import Tensor

from benchmarks.arms import Claim, Figures
from benchmarks.condition_runs import RENDERED, crops, pixels_of, scenes_of
from benchmarks.edit_trials import LEARNED, Stage, Subjects
from benchmarks.subjects import learned
from pcs_ext.image.adapters import injected
from pcs_ext.image.edits.boxes import Box
from pcs_ext.image.edits.cast import Cast, several, subject_adapters
from pcs_ext.image.edits.settings import resolve_edit
from pcs_ext.image.edits.together import TOGETHER, TogetherConfig, draw_together
from pcs_ext.image.subject import Artifact
from pcs_ext.toybox.world.boxes import boxes
from pcs_ext.toybox.world.render import render_rgb
from pcs_ext.toybox.world.scene import Scene
from pcs_ext.toybox.world.subjects import SUBJECTS, class_noun, subject

AT_ONCE, NOUNS = "all weights at once", "the base's nouns"


class Together(Subjects):
    """Two learned subjects side by side: the likeness of each to its true views, where it stands.

    The places are those of a rendered scene of both, which is an arm, too: it says what likeness can be read at this
    size. Who stands where is up to the picture: of both ways round the better one counts.

    Args:
        stage: what trials share.
        edit: its method.
        recipe: of the subjects, the same for the edit and for what it is compared with.
    """

    def __init__(self, stage: Stage, edit: str, recipe: str = "dreambooth-lora") -> None:
        super().__init__(stage)
        self.recipe = recipe
        self.config: TogetherConfig = resolve_edit(edit, TOGETHER, "toybox")
        self.claim = Claim(edit, (AT_ONCE, NOUNS), ("likeness",), beside=(RENDERED,))

    def make(self, arm: str, index: int, seed: int) -> tuple[Tensor, Figures]:
        names = _pair(index)
        scene = _scene(index, names)
        places = _places(names, scene)
        picture = self._drawn(arm, names, scene, places, seed, 1000 * seed + index)
        codes = self.stage.encode(crops(picture, places))
        views = [self.views(name) for name in names]
        alike = [[float((code @ true.T).mean()) for true in views] for code in codes]
        own, other = alike[0][0] + alike[1][1], alike[0][1] + alike[1][0]
        seen = {read["class"] for read in self.stage.read(crops(picture, places))}
        both = float(seen == {class_noun(name) for name in names})
        return picture, {"likeness": max(own, other) / 2, "told apart": abs(own - other) / 2, "both classes": both}

    def _drawn(
        self, arm: str, names: tuple[str, str], scene: Scene, places: list[Box], seed: int, noise: int
    ) -> Tensor:
        prompt = f"a photo of {{{names[0]}}} and {{{names[1]}}} {scene.context}"
        if arm == RENDERED:
            return render_rgb([scene])[0]
        if arm == NOUNS:
            text = prompt.format(**{name: f"a {class_noun(name)}" for name in names})
            return self.stage.plain([text], [noise], self.config.sampling)[0]
        artifacts = [self._learned(name, seed) for name in names]
        cast = several(artifacts, names)
        if arm == AT_ONCE:
            return self._at_once(cast, prompt, noise)
        given = [] if self.claim.arm == "mc2" else places
        drawn = draw_together(cast, [prompt], seeds=[noise], config=self.config, boxes=given, base=self.stage.backbone)
        return pixels_of(drawn[0].image)

    def _learned(self, name: str, seed: int) -> Artifact:
        return learned(name, seed, self.stage.backbone, self.stage.reporter, recipe=self.recipe)

    def _at_once(self, cast: Cast, prompt: str, noise: int) -> Tensor:
        """Both subjects' weights on the base and their words in the prompt, as a studio with two LoRAs does it."""
        assert isinstance(cast.who, tuple)
        base = self.stage.backbone
        adapters = itertools.chain(*(subject_adapters(one, base) for one in cast.who))
        with injected(base, *adapters):
            return self.stage.plain([cast.words(prompt)], [noise], self.config.sampling)[0]


def _pair(index: int) -> tuple[str, str]:
    """Two of the learned subjects, each met by two others: neighbours first, then the next but one."""
    names, step = list(SUBJECTS)[:LEARNED], 1 + index // LEARNED % 2
    return names[index % LEARNED], names[(index + step) % LEARNED]


def _places(names: tuple[str, str], scene: Scene) -> list[Box]:
    corners = boxes(scene).clamp(0, 1).tolist()
    return [
        Box(phrase=name, left=left, top=top, right=right, bottom=bottom)
        for name, (left, top, right, bottom) in zip(names, corners, strict=True)
    ]


def _scene(index: int, names: tuple[str, str]) -> Scene:
    """A scene of two toys with the subjects in their places."""
    scene = scenes_of("casts", index + 1, 1.0)[index]
    toys = tuple(
        dataclasses.replace(subject(name), position=toy.position, heading=toy.heading)
        for name, toy in zip(names, scene.objects, strict=True)
    )
    return dataclasses.replace(scene, objects=toys)
