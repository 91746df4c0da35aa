"""From a method's parts to the gradient of some photos at some step."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.defense.canvas import Canvas, Square
from pcs_ext.defense.method import Defense
from pcs_ext.defense.objectives import Sample
from pcs_ext.defense.surrogate import Surrogate
from pcs_ext.defense.timing import Timesteps
from pcs_ext.defense.transforms import Transform, apply_all
from pcs_ext.runtime import generator_for

_SCALES = (2.0**14, 2.0**7, 1.0)
"""Of gains in fp16. Their means over latents have gradients below 1e-4 already in the last layer, and fp16 ends at
6e-8; 2^14 is the number of Stable Diffusion's latents. Powers of two leave the direction as it is."""


class Ascent:
    """A method's objective on one surrogate.

    Everything random about a photo at a step comes from one generator, seeded by run, surrogate, photo and step: the
    result depends neither on the other photos nor on how they are batched, and a resumed run repeats it. Draws, in this
    order: square, prompt, transforms, timesteps, then the objective's own (posterior noise, noise).
    """

    def __init__(self, surrogate: Surrogate, method: Defense, seed: int) -> None:
        self.surrogate, self.method, self.seed = surrogate, method, seed
        self.zeros = 0.0
        """fp16: largest share so far of a step's gradients at the model's input that were exactly 0."""
        self.timesteps = Timesteps(method.timing, surrogate.backbone.schedule.alphas_cumprod)

    def gradient(
        self, canvases: Sequence[Canvas], step: int, timestep: int | None = None
    ) -> tuple[Sequence[Tensor], Tensor]:
        """Gradients of the gains with respect to the perturbations, float32 on the CPU, and the gains `n`.

        Args:
            canvases: photos.
            step: number of the step in the whole run.
            timestep: look at this one only (SimAC's search).
        """
        gradients, total = self._of_view(canvases, step, 0, timestep)
        for view in range(1, self.method.views.per_step):
            others, gains = self._of_view(canvases, step, view, timestep)
            gradients = [one.add_(other) for one, other in zip(gradients, others, strict=True)]
            total = total + gains
        return gradients, total / self.method.views.per_step

    def _of_view(
        self, canvases: Sequence[Canvas], step: int, view: int, timestep: int | None
    ) -> tuple[list[Tensor], Tensor]:
        """Gradients and gains of one square of each photo. In fp16 the gains are scaled by a power of two meanwhile, by
        a smaller one where that overflows; a resumed run does the same."""
        half = self.surrogate.backbone.dtype == torch.float16
        scales = list(_SCALES) if half else [1.0]
        while True:
            scale = scales.pop(0)
            deltas = [canvas.delta.detach().requires_grad_() for canvas in canvases]
            generators = [
                generator_for(self.seed, "attack", self.surrogate.name, canvas.key, step, view) for canvas in canvases
            ]
            with torch.enable_grad():
                gains, images = self._gains(canvases, deltas, generators, timestep)
                if half:
                    images.retain_grad()
                (gains.sum() * scale).backward()
            gradients = [torch.zeros_like(delta) if delta.grad is None else delta.grad.div_(scale) for delta in deltas]
            if not scales or all(bool(gradient.isfinite().all()) for gradient in gradients):
                break
        if half and images.grad is not None:
            self.zeros = max(self.zeros, float((images.grad == 0).float().mean()))
        return gradients, gains.detach().cpu()

    @torch.no_grad()
    def score(self, canvas: Canvas, delta: Tensor | None, *, draws: int = 4) -> float:
        """The gain of a finished perturbation `c h w` in levels (None: the original) at noise of its own, the same for
        all that are compared; averaged over `draws`, without transforms."""
        gains = []
        for draw in range(draws):
            generator = generator_for(self.seed, "score", self.surrogate.name, canvas.key, draw)
            gains.append(self._gains([canvas], [delta], [generator], None, transforms=False)[0])
        return float(torch.cat(gains).mean())

    def _gains(
        self,
        canvases: Sequence[Canvas],
        deltas: Sequence[Tensor | None],
        generators: Sequence[torch.Generator],
        timestep: int | None,
        *,
        transforms: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Gains `n`, and the pictures `n 3 h w` that the model was shown."""
        backbone, method = self.surrogate.backbone, self.method
        images, places, prompts, timesteps = [], [], [], []
        applied = method.transforms if transforms else ()
        for canvas, delta, generator in zip(canvases, deltas, generators, strict=True):
            squares = method.views.squares(*canvas.photo.size)
            square = squares[int(torch.randint(len(squares), (), generator=generator))]
            prompts.append(int(torch.randint(len(self.surrogate.prompts), (), generator=generator)))
            places.append((canvas, square, generator.get_state()))
            view = canvas.view(square, backbone.resolution, delta, backbone.device)[None]
            images.append(apply_all(applied, view, generator))
            drawn = self.timesteps.draw(canvas.key, generator)
            timesteps.append(drawn if timestep is None else torch.full_like(drawn, timestep))
        sample = Sample(
            backbone=backbone,
            images=torch.cat(images),
            clean=lambda: self._originals(places, applied),
            timesteps=torch.stack(timesteps),
            conditioning=self.surrogate.conditioning(prompts),
            words=torch.tensor([backbone.token_count(self.surrogate.prompts[prompt]) for prompt in prompts]),
            generators=generators,
        )
        half = backbone.dtype != torch.float32
        with torch.autocast(backbone.device.type, backbone.dtype if half else torch.bfloat16, enabled=half):
            return method.objective(sample).float(), sample.images

    def _originals(self, places: Sequence[tuple[Canvas, Square, Tensor]], transforms: Sequence[Transform]) -> Tensor:
        """The original views at some places of photos, transformed by generators in the states that are given."""
        views, backbone = [], self.surrogate.backbone
        for canvas, square, state in places:
            again = torch.Generator()
            again.set_state(state)
            view = canvas.view(square, backbone.resolution, None, backbone.device)[None]
            views.append(apply_all(transforms, view, again))
        return torch.cat(views)
