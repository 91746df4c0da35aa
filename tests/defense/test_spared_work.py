"""Work that nobody reads is not done, and nothing else changes by it."""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from pcs_ext.defense.budget import Budget
from pcs_ext.defense.canvas import Canvas, CanvasViews, Square, Views
from pcs_ext.defense.engine import Protection
from pcs_ext.defense.objectives import DenoisingGain, PosteriorGain
from pcs_ext.defense.photos import OwnPhoto
from pcs_ext.defense.recipes import RECIPES
from pcs_ext.defense.surrogate import Latents, Surrogate
from pcs_ext.defense.transforms import Blur, Crop, Flip, Resize
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.class_images import ClassImages
from pcs_ext.image.types import LossTerms
from pcs_ext.runtime import generator_for
from tests.defense.test_engine import CLASS, PROMPT, SEED, frozen, noise_photos


class Forgetful(Surrogate):
    """Encodes its captions anew in every step of training."""

    def _loss(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        self._captions = None
        return super()._loss(step, micro_step, generator)


def test_constant_captions_are_encoded_once_unless_the_text_encoder_trains(sd: AbstractBackbone) -> None:
    views = torch.stack([photo.pixels.float() / 127.5 - 1 for photo in noise_photos(2)])
    class_images = ClassImages(torch.rand(3, 3, 32, 32, generator=generator_for("class")) * 2 - 1, CLASS)

    def trained(kind: type[Surrogate], recipe: str) -> tuple[dict[str, Tensor], int]:
        training = RECIPES[recipe].build("sd").training
        surrogate, calls = kind(sd, [PROMPT], training=training, class_images=class_images, seed=SEED), []
        handle = sd.text_encoders[0].register_forward_hook(lambda *_: calls.append(1))
        with surrogate.active():
            for number in range(2):
                surrogate.before_round(number, views)
                surrogate.conditioning([0, 0])
                surrogate.after_round(views)
            state = surrogate.state()
        handle.remove()
        return state, len(calls)

    (once, few), (anew, many) = trained(Surrogate, "aspl"), trained(Forgetful, "aspl")
    assert (few, many) == (2, 13), "of the captions and of the attack's prompts; and twelve steps of training"
    assert all(torch.equal(once[key], anew[key]) for key in anew)
    assert trained(Surrogate, "aspl-compat")[1] == 14, "each step, and the prompts in each round"


def test_only_squares_that_are_drawn_are_resized(sd: AbstractBackbone) -> None:
    class Watched(Canvas):
        def __post_init__(self) -> None:
            super().__post_init__()
            self.seen: list[tuple[Square, bool]] = []

        def view(self, square: Square, size: int, delta: Tensor | None) -> Tensor:
            self.seen.append((square, delta is not None))
            return super().view(square, size, delta)

    photos = [OwnPhoto(path=Path(f"{k}.png"), sha256=f"{k:064d}", pixels=wide(k)) for k in range(3)]
    canvases = [Watched(photo, Budget()) for photo in photos]
    for canvas in canvases:
        canvas.delta = torch.full(canvas.pixels.shape, 2.0)
    for protected in (True, False):
        lazy = CanvasViews(canvases, Views(zooms=(1.0, 2.0)), 32, protected=protected)
        every = torch.stack([lazy[index] for index in range(len(lazy))])
        assert len(lazy) == 3 * 5
        for canvas in canvases:
            canvas.seen.clear()
        ours, whole = Latents(sd, lazy), Latents(sd, every)
        for index in (7, 0, 7):
            noise = ("draw", index)
            assert torch.equal(ours.draw(index, generator_for(*noise)), whole.draw(index, generator_for(*noise)))
        assert sum(len(canvas.seen) for canvas in canvases) == 2
        assert all(changed is protected for canvas in canvases for _, changed in canvas.seen)
    training = RECIPES["aspl"].build("sd").training
    assert training is not None
    training = dataclasses.replace(training, prior_loss_weight=0.0, clean_steps=0, protected_steps=2)
    surrogate = Surrogate(sd, [PROMPT], training=training, seed=SEED)
    for canvas in canvases:
        canvas.seen.clear()
    with surrogate.active():
        surrogate.after_round(CanvasViews(canvases, Views(), 32, protected=True))
    assert 1 <= sum(len(canvas.seen) for canvas in canvases) <= 2


def wide(number: int) -> Tensor:
    return torch.randint(0, 256, (3, 40, 130), generator=generator_for("wide", number), dtype=torch.uint8)


def test_originals_are_looked_at_by_objectives_that_compare_alone(sd: AbstractBackbone) -> None:
    transforms = (Resize(), Crop(), Blur(taps=7), Flip())
    for objective, looks in ((DenoisingGain(), False), (PosteriorGain(statistic="both"), True)):
        method = frozen(objective=objective, transforms=transforms)
        canvases = [Canvas(photo, method.budget) for photo in noise_photos(2)]
        ascent = Protection(canvases, [Surrogate(sd, [PROMPT])], method, seed=SEED).ascents[0]
        for step in range(6):
            gains = ascent.gradient(canvases, step)[1]
            assert bool((gains == 0).all()) is looks, "what has not changed is transformed like its original"
        assert all(bool(canvas._originals) is looks for canvas in canvases)
