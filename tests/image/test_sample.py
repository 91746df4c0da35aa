"""The sampling loop against diffusers' own pipeline, and what an image may depend on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, StableDiffusionPipeline

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.guidance import combine_terms, rescale_guidance
from pcs_ext.image.sample import SampleConfig, SampleHooks, build_scheduler, initial_noise, sample
from pcs_ext.reporter import SilentReporter
from tests.support.tiny import tiny_backbone

CONFIG = SampleConfig(scheduler="ddim", num_inference_steps=4, guidance_scale=3.0)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("scheduler", ["ddim", "dpmsolver++", "euler"])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_images_equal_those_of_the_stock_pipeline(
    tmp_path: Path, prediction_type: str, scheduler: str, guidance_scale: float
) -> None:
    backbone = tiny_backbone(tmp_path / "model", prediction_type=prediction_type)
    config = SampleConfig(scheduler=scheduler, num_inference_steps=5, guidance_scale=guidance_scale)  # type: ignore[arg-type]
    with torch.no_grad():
        ours = sample(backbone, ["a red dog", "a cat"], seeds=[3, 4], config=config)
    kinds = {"ddim": DDIMScheduler, "dpmsolver++": DPMSolverMultistepScheduler, "euler": EulerDiscreteScheduler}
    pipeline = StableDiffusionPipeline(
        vae=backbone.vae,
        text_encoder=backbone.text_encoders[0],
        tokenizer=backbone.tokenizers[0],
        unet=backbone.denoiser,
        scheduler=kinds[scheduler].from_config(build_scheduler(backbone, config).config),
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    theirs: Any = pipeline(
        ["a red dog", "a cat"],
        num_inference_steps=5,
        guidance_scale=guidance_scale,
        latents=initial_noise(backbone, [3, 4], config),
        output_type="pt",
        height=32,
        width=32,
    )
    torch.testing.assert_close((ours + 1) / 2, theirs.images.float(), atol=2e-3, rtol=0)


def test_an_image_depends_on_its_own_prompt_and_seed_only(sd: AbstractBackbone) -> None:
    with torch.no_grad():
        alone = sample(sd, ["a dog"], seeds=[7], config=CONFIG)
        among = sample(sd, ["a cat", "a dog", "snow"], seeds=[1, 7, 2], config=CONFIG, batch_size=2)
    torch.testing.assert_close(alone[0], among[1], atol=1e-4, rtol=0)
    assert not torch.allclose(alone[0], among[0], atol=1e-2)


def test_hooks_are_called_and_used(sd: AbstractBackbone) -> None:
    steps: list[int] = []

    def on_step(step: int, timestep: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        steps.append(step)
        return latents * 0

    hooks = SampleHooks(on_step=on_step, decode=lambda latents: latents[:, :3])
    with torch.no_grad():
        images = sample(sd, ["a dog"], seeds=[0], config=CONFIG, hooks=hooks)
    assert steps == [0, 1, 2, 3]
    assert images.abs().max() == 0


def test_predict_hook_wraps_the_denoiser(sd: AbstractBackbone) -> None:
    def zero(predict):
        return lambda latents, timesteps, conditioning: predict(latents, timesteps, conditioning) * 0

    with torch.no_grad():
        changed = sample(sd, ["a dog"], seeds=[0], config=CONFIG, hooks=SampleHooks(predict=zero))
        plain = sample(sd, ["a dog"], seeds=[0], config=CONFIG)
    assert not torch.allclose(changed, plain)


@pytest.mark.parametrize(
    ("prompts", "seeds", "config", "message"),
    [
        ([], [], CONFIG, "at least one, got 0"),
        (["a"], [1, 2], CONFIG, "as many seeds as prompts"),
        (["a"], [1], SampleConfig(num_inference_steps=0), "at least 1, got 0"),
        (["a"], [1], SampleConfig(height=33), "height 33 does not fit: expected a multiple of 4"),
        (["a"], [1], SampleConfig(width=8), "at least 32"),
    ],
)
def test_requests_that_cannot_be_met(sd: AbstractBackbone, prompts, seeds, config, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sample(sd, prompts, seeds=seeds, config=config)


def test_guidance_terms_by_hand() -> None:
    base, a, b = torch.zeros(1, 2), torch.ones(1, 2), torch.full((1, 2), 3.0)
    assert combine_terms(base, [(2.0, a, base), (0.5, b, a)]).tolist() == [[3.0, 3.0]]
    positive = torch.randn(2, 4, 8, 8)
    rescaled = rescale_guidance(positive * 5 + 1, positive, 1.0)
    torch.testing.assert_close(rescaled.std((1, 2, 3)), positive.std((1, 2, 3)))


def test_large_images_are_sampled_and_decoded_in_few_at_a_time(
    sd: AbstractBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[int, int]] = []

    class Hearing(SilentReporter):
        def progress(self, task: str, step: int, total: int, **fields: Any) -> None:
            heard.append((step, total))

    batches: list[int] = []
    kept = sd.denoiser.register_forward_pre_hook(lambda module, given: batches.append(len(given[0])))
    decoded: list[int] = []
    apart = sd.vae.decoder.register_forward_pre_hook(lambda module, given: decoded.append(len(given[0])))
    config = SampleConfig(num_inference_steps=2, guidance_scale=1.0)
    asked: dict[str, Any] = {"seeds": range(5), "config": config, "reporter": Hearing()}
    with torch.no_grad():
        whole = sample(sd, ["a dog"] * 5, **asked)
        assert (batches, decoded) == ([5, 5], [5])
        monkeypatch.setattr("pcs_ext.image.sample._CELLS", 2 * 8 * 8)
        monkeypatch.setattr("pcs_ext.image.sample._PIXELS", 32 * 32)
        for found in (batches, decoded, heard):
            found.clear()
        parts = sample(sd, ["a dog"] * 5, **asked)
    for hook in (kept, apart):
        hook.remove()
    assert (batches, decoded) == ([2, 2, 2, 2, 1, 1], [1] * 5)
    assert heard == [(step, 6) for step in range(1, 7)]
    torch.testing.assert_close(parts, whole, atol=1e-4, rtol=0)
