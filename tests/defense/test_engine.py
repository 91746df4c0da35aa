"""The loop, step for step: against the released ASPL round, across batches, across interruptions."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.defense.budget import Budget
from pcs_ext.defense.canvas import Canvas
from pcs_ext.defense.engine import Protection, direction
from pcs_ext.defense.expectation import expect
from pcs_ext.defense.method import Defense, StepRule
from pcs_ext.defense.objectives import DenoisingGain, LatentGain
from pcs_ext.defense.photos import OwnPhoto
from pcs_ext.defense.recipes import RECIPES
from pcs_ext.defense.surrogate import Latents, Surrogate
from pcs_ext.errors import DivergedError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.class_images import ClassImages
from pcs_ext.runtime import generator_for

SEED, PROMPT, CLASS = 5, "a photo of sks dog", "a photo of dog"


def noise_photos(count: int, side: int = 32) -> list[OwnPhoto]:
    found = []
    for index in range(count):
        pixels = torch.randint(0, 256, (3, side, side), generator=generator_for("photo", index), dtype=torch.uint8)
        found.append(OwnPhoto(path=Path(f"{index}.png"), sha256=f"{index:016d}" + 48 * "0", pixels=pixels))
    return found


class Released:
    """One ASPL round as the released script orders its operations, slow and plain; noise comes from our generators."""

    def __init__(self, backbone: Any, photos: list[OwnPhoto], class_images: Tensor) -> None:
        self.backbone, self.count = backbone, 0
        self.models = {"unet": copy.deepcopy(backbone.denoiser), "text": copy.deepcopy(backbone.text_encoders[0])}
        for model in self.models.values():
            self.to_bf16(model)
        self.original = torch.stack([photo.pixels.float() / 127.5 - 1 for photo in photos])
        self.keys = [photo.sha256[:16] for photo in photos]
        self.class_images = class_images

    @staticmethod
    def to_bf16(model: torch.nn.Module) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.bfloat16())

    def states(self, models: dict[str, Any], prompts: list[str]) -> Tensor:
        tokenizer = self.backbone.tokenizers[0]
        ids = tokenizer(prompts, padding="max_length", max_length=24, truncation=True, return_tensors="pt").input_ids
        return models["text"](ids)[0]

    def loss(self, models: dict[str, Any], latents: Tensor, noise: Tensor, t: Tensor, prompts: list[str]) -> Tensor:
        abar = self.backbone.schedule.alphas_cumprod[t].reshape(-1, 1, 1, 1)
        noisy = abar.sqrt() * latents + (1 - abar).sqrt() * noise
        return (models["unet"](noisy, t, self.states(models, prompts)).sample - noise).square()

    def encode(self, image: Tensor, generator: torch.Generator) -> Tensor:
        posterior = self.backbone.vae.encode(image[None]).latent_dist
        noise = torch.randn(posterior.mean.shape[1:], generator=generator)
        return (posterior.mean + posterior.std * noise) * self.backbone.vae.config.scaling_factor

    def train(self, models: dict[str, Any], images: Tensor, steps: int) -> None:
        for model in models.values():
            model.requires_grad_(True)
        parameters = [p for model in models.values() for p in model.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=5e-7, betas=(0.9, 0.999), weight_decay=1e-2, fused=True)
        for step in range(steps):
            generator = generator_for(SEED, "surrogate", "0", self.count)
            chosen = (images[step % len(images)], self.class_images[step % len(self.class_images)])
            with torch.no_grad():
                latents = torch.cat([self.encode(image, generator) for image in chosen])
            noise = torch.randn(latents.shape, generator=generator)
            t = torch.randint(0, 1000, (2,), generator=generator)
            errors = self.loss(models, latents, noise, t, [PROMPT, CLASS])
            (errors[:1].mean() + 1.0 * errors[1:].mean()).backward()
            optimizer.step()
            optimizer.zero_grad()
            for model in models.values():
                self.to_bf16(model)
            for state in optimizer.state.values():
                for key in ("exp_avg", "exp_avg_sq"):
                    state[key].copy_(state[key].bfloat16())
            self.count += 1

    def attack(self, models: dict[str, Any], images: Tensor, steps: int, first: int) -> Tensor:
        for step in range(first, first + steps):
            leaf = images.clone().requires_grad_()
            losses = []
            for row, key in enumerate(self.keys):
                generator = generator_for(SEED, "attack", "0", key, step, 0)
                torch.randint(1, (), generator=generator)  # square
                torch.randint(1, (), generator=generator)  # prompt
                t = torch.randint(0, 1000, (1,), generator=generator)
                latents = self.encode(leaf[row], generator)
                noise = torch.randn((1, *latents.shape[1:]), generator=generator)
                losses.append(self.loss(models, latents, noise, t, [PROMPT]).mean())
            torch.stack(losses).mean().backward()
            assert leaf.grad is not None
            moved = images + 0.005 * leaf.grad.sign()
            images = (self.original + (moved - self.original).clamp(-0.05, 0.05)).clamp(-1, 1)
        return images

    def round(self, images: Tensor, number: int) -> Tensor:
        copies = copy.deepcopy(self.models)
        self.train(copies, self.original, 3)
        images = self.attack(copies, images, 6, 6 * number)
        self.train(self.models, images, 3)
        return images


def test_compat_aspl_is_the_released_round_step_for_step(sd: AbstractBackbone) -> None:
    photos = noise_photos(4)
    class_images = torch.rand(3, 3, 32, 32, generator=generator_for("class")) * 2 - 1
    reference = Released(sd, photos, class_images)
    images = reference.round(reference.original, 0)

    method = dataclasses.replace(RECIPES["aspl-compat"].build("sd"), rounds=1)
    surrogate = Surrogate(
        sd, [PROMPT], training=method.training, class_images=ClassImages(class_images, CLASS), seed=SEED
    )
    canvases = [Canvas(photo, method.budget) for photo in photos]
    start = {name: value.clone() for name, value in sd.denoiser.named_parameters()}
    with surrogate.active():
        for _ in Protection(canvases, [surrogate], method, seed=SEED).run():
            pass
        ours = {name: value.detach().clone() for name, value in sd.denoiser.named_parameters()}
    expected = (images - reference.original) * 127.5
    found = torch.stack([canvas.delta for canvas in canvases])
    assert found.abs().max() > 3.8, "six steps of 0.6375"
    different = (found - expected).abs() > 1e-3
    # A sign may differ where the gradient is as good as zero.
    assert different.float().mean() < 2e-3
    weights = dict(reference.models["unet"].named_parameters())
    agree = [(ours[name] - weights[name]).abs() < 1e-9 for name in ours]
    assert torch.cat([part.flatten() for part in agree]).float().mean() > 0.999
    moved = torch.cat([(ours[n] != start[n].bfloat16()).flatten() for n in ours]).float().mean()
    assert moved < 0.10, "pure bf16 hardly moves at 5e-7"


def test_a_fixed_surrogate_really_moves(sd: AbstractBackbone) -> None:
    training = RECIPES["aspl"].build("sd").training
    assert training is not None
    training = dataclasses.replace(training, prior_loss_weight=0.0)
    surrogate = Surrogate(sd, [PROMPT], training=training, seed=SEED)
    views = torch.stack([photo.pixels.float() / 127.5 - 1 for photo in noise_photos(2)])
    with surrogate.active():
        before = {key: value.clone() for key, value in surrogate.state().items()}
        surrogate.before_round(0, views)
        during = surrogate.state()
        surrogate.after_round(views)
        after = surrogate.state()
    b = [key for key in before if key.startswith("parameter") and not torch.equal(before[key], after[key])]
    moved = torch.cat([(before[key] != after[key]).flatten() for key in b]).float().mean()
    assert moved > 0.9
    assert any(not torch.equal(during[key], after[key]) for key in b)
    assert surrogate.trained_steps == 6


def test_only_photos_that_are_read_are_encoded_and_each_once(sd: AbstractBackbone) -> None:
    images = torch.stack([photo.pixels.float() / 127.5 - 1 for photo in noise_photos(3)])
    latents, calls = Latents(sd, images), []
    handle = sd.vae.encoder.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    drawn = [latents.draw(index, generator_for("draw", k)) for k, index in enumerate((2, 0, 2))]
    handle.remove()
    assert calls == [1, 1]
    mean, deviation = sd.encode_posterior(images[2:])
    for k in (0, 2):
        noise = torch.randn(mean.shape[1:], generator=generator_for("draw", k))
        torch.testing.assert_close(drawn[k], mean + deviation * noise)
    assert not any(draw.requires_grad for draw in drawn)


def test_a_full_surrogate_keeps_nothing_it_does_not_need_and_leaves_no_trace(sd: AbstractBackbone) -> None:
    training = RECIPES["aspl-compat"].build("sd").training
    assert training is not None
    training = dataclasses.replace(training, prior_loss_weight=0.0, learning_rate=1e-3, rounding="none")
    before = {name: value.clone() for name, value in sd.denoiser.state_dict().items()}
    base = dict(sd.denoiser.named_parameters())
    views = torch.stack([photo.pixels.float() / 127.5 - 1 for photo in noise_photos(2)])
    surrogate = Surrogate(sd, [PROMPT], training=training, seed=SEED)
    with surrogate.active():
        assert all(parameter.numel() == 0 for parameter in base.values()), "the base's own weights are parked"
        start = {key: value.clone() for key, value in surrogate.state().items()}
        surrogate.before_round(0, views)
        during = surrogate.state()
        assert during.keys() == start.keys(), "no averages of a finished call"
        assert any(not torch.equal(start[key], during[key]) for key in start)
        assert all(parameter.grad is None for parameter in sd.denoiser.parameters())
        surrogate.after_round(views)
        after = surrogate.state()
    # The clean steps are forgotten: the same as three steps on the protected photos alone, from the same start.
    alone = Surrogate(sd, [PROMPT], training=dataclasses.replace(training, clean_steps=0), seed=SEED)
    alone.trained_steps = 3
    with alone.active():
        alone.after_round(views)
        expected = alone.state()
    assert all(torch.equal(after[key], expected[key]) for key in expected)
    assert all(torch.equal(value, before[name]) for name, value in sd.denoiser.state_dict().items())
    assert all(base[name] is parameter for name, parameter in sd.denoiser.named_parameters())


def test_the_states_of_a_pool_take_turns_and_come_back_as_they_were_stored(sd: AbstractBackbone) -> None:
    training = RECIPES["metacloak"].build("sd").training
    assert training is not None
    training = dataclasses.replace(training, prior_loss_weight=0.0, first_steps=4, pool=3, turn=2)
    surrogate = Surrogate(sd, [PROMPT], training=training, seed=SEED)
    views = torch.stack([photo.pixels.float() / 127.5 - 1 for photo in noise_photos(2)])
    seen = []
    with surrogate.active():
        for number in range(8):
            surrogate.before_round(number, views)
            state = surrogate.state()
            seen.append({k: v for k, v in state.items() if k.startswith("parameter")})
            surrogate.after_round(views)
    same = [all(torch.equal(seen[0][key], state[key]) for key in state) for state in seen]
    assert same == [True, False, False, False, False, False, True, False], "the first state comes again after 3 turns"
    assert surrogate.trained_steps == 4 + 8 * training.protected_steps
    assert training.first_steps == 4
    method = RECIPES["metacloak"].build("sd").with_steps(144)
    assert method.rounds == 24
    assert method.training is not None
    assert method.training.turn == 1, "all six states still take part, four times"
    assert method.training.first_steps == 10
    shortest = RECIPES["metacloak"].build("sd").with_steps(6).training
    assert shortest is not None
    assert shortest.first_steps == 5, "one for each state but the first"


def frozen(**changes: Any) -> Defense:
    method = Defense(id="frozen", budget=Budget(levels=8), rule=StepRule(size=1.0), steps=6, objective=DenoisingGain())
    return dataclasses.replace(method, **changes)


def finish(sd: AbstractBackbone, method: Defense, photos: list[OwnPhoto], batch: int = 1) -> list[Tensor]:
    surrogate = Surrogate(sd, [PROMPT], training=method.training, seed=SEED)
    canvases = [Canvas(photo, method.budget) for photo in photos]
    with surrogate.active():
        for _ in Protection(canvases, [surrogate], method, seed=SEED, batch=batch).run():
            pass
    return [canvas.delta for canvas in canvases]


def test_four_together_are_four_alone(sd: AbstractBackbone) -> None:
    photos = noise_photos(4)
    together = finish(sd, frozen(steps=2), photos, batch=4)
    alone = [finish(sd, frozen(steps=2), [photo])[0] for photo in photos]
    for a, b in zip(together, alone, strict=True):
        assert ((a - b).abs() > 1e-4).float().mean() < 2e-3


def test_the_gradient_is_the_plain_one(sd: AbstractBackbone) -> None:
    """Freezing, cached prompts and micro-batches change nothing: fp32 gradient to 1e-6."""
    photo = noise_photos(1)[0]
    surrogate = Surrogate(sd, [PROMPT], seed=SEED)
    protection = Protection([Canvas(photo, Budget())], [surrogate], frozen(), seed=SEED)
    with surrogate.active():
        ours = protection.ascents[0].gradient(protection.canvases, 3)[0][0]
    reference = Released(sd, [photo], torch.zeros(1, 3, 32, 32))
    reference.models = {"unet": sd.denoiser, "text": sd.text_encoders[0]}
    leaf = reference.original.clone().requires_grad_()
    generator = generator_for(SEED, "attack", "0", photo.sha256[:16], 3, 0)
    for _ in range(2):
        torch.randint(1, (), generator=generator)
    t = torch.randint(0, 1000, (1,), generator=generator)
    latents = reference.encode(leaf[0], generator)
    noise = torch.randn((1, *latents.shape[1:]), generator=generator)
    reference.loss(reference.models, latents, noise, t, [PROMPT]).mean().backward()
    assert leaf.grad is not None
    assert F.mse_loss(ours * 127.5, leaf.grad[0]).sqrt() < 1e-6 * leaf.grad.abs().max() + 1e-9


@pytest.mark.parametrize("kind", ["frozen", "fsmg", "aspl", "simac", "metacloak"])
def test_a_resumed_run_is_the_uninterrupted_one(kind: str, sd: AbstractBackbone) -> None:
    method = frozen(start="random") if kind == "frozen" else RECIPES[kind].build("sd")
    if method.training is not None:
        training = dataclasses.replace(
            method.training,
            prior_loss_weight=0.0,
            first_steps=method.training.first_steps and 2,
            pool=min(3, method.training.pool),
            turn=1,
        )
        method = dataclasses.replace(
            method, training=training, rounds=min(3, method.rounds), steps=2 if method.rounds > 1 else 4
        )
    if method.timing.search is not None:
        search = dataclasses.replace(method.timing.search, rounds=1, candidates=2)
        method = dataclasses.replace(method, timing=dataclasses.replace(method.timing, search=search))
    photos = noise_photos(2)
    whole = finish(sd, method, photos)
    stops = 0
    state = None
    canvases = [Canvas(photo, method.budget) for photo in photos]
    while True:
        surrogate = Surrogate(sd, [PROMPT], training=method.training, seed=SEED)
        with surrogate.active():
            protection = Protection(canvases, [surrogate], method, seed=SEED)
            if state is not None:
                protection.load_state(*state)
            for progress in protection.run():
                if progress.resumable and progress.step < progress.total:
                    tensors, values = protection.state()
                    state = {k: v.clone() for k, v in tensors.items()}, values
                    stops += 1
                    break
            else:
                break
    assert stops >= 2
    assert all(torch.equal(canvas.delta, delta) for canvas, delta in zip(canvases, whole, strict=True))


def test_what_to_expect_counts_training_and_photos_and_leaves_the_photo_alone(sd: AbstractBackbone) -> None:
    method = RECIPES["fast"].build("sd")
    assert method.training is not None
    method = dataclasses.replace(method, training=dataclasses.replace(method.training, prior_loss_weight=0.0))
    photo = Canvas(noise_photos(1)[0], method.budget)

    def minutes(method: Defense, count: int) -> float:
        found = expect(method, [Surrogate(sd, [PROMPT], training=method.training)], photo, count)
        assert found is not None
        return found.minutes

    assert 0 < minutes(method, 4) < minutes(method, 400) / 5
    assert not photo.delta.any()
    assert expect(frozen(steps=3), [Surrogate(sd, [PROMPT])], photo, 1) is None


def test_only_the_mask_changes(sd: AbstractBackbone) -> None:
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[4:20, 8:30] = True
    photo = dataclasses.replace(noise_photos(1)[0], mask=mask)
    method = frozen(start="random", objective=LatentGain())
    canvas = Canvas(photo, method.budget)
    surrogate = Surrogate(sd, [PROMPT])
    with surrogate.active():
        for _ in Protection([canvas], [surrogate], method).run():
            pass
    changed = canvas.result() != photo.pixels
    assert not changed[:, ~mask].any()
    assert changed[:, mask].float().mean() > 0.8


def test_l2_and_perceptual_budgets_hold(sd: AbstractBackbone) -> None:
    for budget, kind in ((Budget(norm="l2", levels=2), "l2"), (Budget(norm="perceptual"), "sign")):
        method = frozen(budget=budget, rule=StepRule(size=1.0, direction=kind), steps=4)  # type: ignore[arg-type]
        surrogate = Surrogate(sd, [PROMPT])
        canvas = Canvas(noise_photos(1)[0], budget)
        with surrogate.active():
            for _ in Protection([canvas], [surrogate], method).run():
                pass
        found = budget.check(canvas.result(), canvas.pixels)
        assert found.within
        assert found.rms_levels > 1


def test_directions_by_hand() -> None:
    gradient = torch.tensor([[[3.0, -4.0, 0.0, 0.0]]])
    rows = slice(0, 1)
    assert torch.equal(direction(gradient, StepRule(size=1), 2.0)(rows), torch.tensor([[[2.0, -2.0, 0.0, 0.0]]]))
    # root mean square 2.5
    assert torch.allclose(direction(gradient, StepRule(size=1, direction="l2"), 1.0)(rows), gradient / 2.5)
    with pytest.raises(DivergedError, match="not finite"):
        direction(torch.tensor([[[float("nan")]]]), StepRule(size=1), 1.0)
