"""Steps against diffusers', probabilities against torch's, and both ways to learn against a judge of brightness."""

from collections.abc import Sequence

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor
from torch.distributions import Normal

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import LowRankConfig, build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.concept import Concept
from pcs_ext.image.fit import FitConfig, fit
from pcs_ext.image.rewards.config import RewardConfig
from pcs_ext.image.rewards.judge import Judge
from pcs_ext.image.rewards.loss import RewardLoss
from pcs_ext.image.rewards.paths import Steps, asked, log_probability
from pcs_ext.image.training import only_trainable
from pcs_ext.image.types import LossTerms, ParameterGroup

CONCEPT = Concept(class_noun="dog", mode="rare", token="sks")
PROMPTS = ("a photo of {subject}",)
COUNT = 10


def told(step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
    """A loss of photos that must not be asked."""
    raise AssertionError("its weight is 0")


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_steps_are_those_of_ddim(eta: float, sd: AbstractBackbone) -> None:
    scheduler = DDIMScheduler(
        trained_betas=(1 - sd.schedule.alphas_cumprod[1:] / sd.schedule.alphas_cumprod[:-1]).tolist(),
        timestep_spacing="trailing",
        clip_sample=False,
    )
    scheduler.alphas_cumprod = sd.schedule.alphas_cumprod
    scheduler.config["num_train_timesteps"] = sd.schedule.num_train_timesteps
    scheduler.set_timesteps(COUNT)
    steps = Steps(sd, COUNT)
    assert steps.timesteps == scheduler.timesteps.tolist()
    generator = torch.Generator().manual_seed(1)
    latents, noise, extra = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(3))
    for index in (0, 4, COUNT - 2):
        time = torch.full((2,), steps.timesteps[index])
        wanted = scheduler.step(
            noise, steps.timesteps[index], latents, eta=eta, variance_noise=extra, return_dict=False
        )[0]
        mean, sigma = steps.mean(sd.schedule.to_x0(noise, latents, time), noise, index, eta)
        torch.testing.assert_close(mean + sigma * extra, wanted, rtol=1e-4, atol=1e-4)


def test_the_last_step_goes_to_the_clean_picture(sd: AbstractBackbone) -> None:
    clean, noise = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    mean, sigma = Steps(sd, COUNT).mean(clean, noise, COUNT - 1, eta=1.0)
    assert sigma == 0
    torch.testing.assert_close(mean, clean)


def test_probabilities_differ_as_those_of_a_normal_distribution() -> None:
    generator = torch.Generator().manual_seed(2)
    first, second, mean = (torch.randn(3, 4, 5, 5, generator=generator) for _ in range(3))
    wanted = [Normal(mean, 0.7).log_prob(x).flatten(1).mean(1) for x in (first, second)]
    found = [log_probability(x, mean, 0.7) for x in (first, second)]
    torch.testing.assert_close(found[0] - found[1], wanted[0] - wanted[1])


def brightness(images: Tensor, texts: Sequence[str]) -> Tensor:
    """`b`; texts must not name the subject's own word."""
    assert all(text == "a photo of a dog" for text in texts)
    return images.mean((1, 2, 3))


@pytest.mark.parametrize(
    ("method", "rate", "steps"),
    [("feedback", 1e-2, 25), ("policy", 1e-2, 40)],
)
def test_what_is_rewarded_grows(method: str, rate: float, steps: int, sd: AbstractBackbone) -> None:
    config = RewardConfig(
        method=method,  # type: ignore[arg-type]
        text=1.0, prompts=PROMPTS, encoder="toybox", pictures=8, steps=4, visited=3, denoising=0.0,
    )  # fmt: skip
    adapter = build_adapter("policy", LowRankConfig(rank=4))
    with injected(sd, adapter):
        loss = RewardLoss(config, sd, CONCEPT, [], told)
        loss.judge = brightness  # type: ignore[assignment]
        groups = [ParameterGroup(name=n, parameters=tuple(p), learning_rate=rate, weight_decay=0.0)
                  for n, p in adapter.parameters().items()]  # fmt: skip
        before = mean_brightness(loss, sd)
        with only_trainable(groups):
            for _ in fit(loss, groups, FitConfig(steps=steps)):
                pass
        after = mean_brightness(loss, sd)
    assert after > before + 0.02, f"{before} -> {after}"


@torch.no_grad()
def mean_brightness(loss: RewardLoss, sd: AbstractBackbone) -> float:
    """Of pictures of paths that training never saw."""
    generator, told = torch.Generator().manual_seed(77), asked(sd, ["a photo of a sks dog"] * 8, 1.0)
    return float(sd.decode_latents(loss._path(told, generator)[-1]).float().mean())


def test_the_judge_weighs_likeness_and_words() -> None:
    pictures = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(3)) * 2 - 1
    cpu = torch.device("cpu")
    identity = Judge(
        RewardConfig(method="feedback", prompts=PROMPTS, encoder="toybox", identity=1.0), pictures[:1], cpu
    )
    text = Judge(RewardConfig(method="feedback", prompts=PROMPTS, encoder="toybox", text=1.0), pictures[:1], cpu)
    both = RewardConfig(method="feedback", prompts=PROMPTS, encoder="toybox", identity=2.0, text=0.5)
    texts = ["a red dog", "a blue cat", "a photo of a dog"]
    worth = Judge(both, pictures[:1], cpu)(pictures, texts)
    apart = 2.0 * identity(pictures, texts) + 0.5 * text(pictures, texts)
    torch.testing.assert_close(worth, apart)
    assert float(identity(pictures, texts)[0]) == pytest.approx(1.0, abs=1e-5), "a photo is like itself"


@pytest.mark.parametrize(
    "wrong",
    [
        {"identity": 0.0, "text": 0.0},
        {"prompts": ("a photo of a dog",)},
        {"prompts": ()},
        {"method": "policy", "pictures": 1},
        {"method": "policy", "pictures": 2, "steps": 1, "visited": 1},
        {"method": "policy", "pictures": 2, "visited": 30},
        {"method": "policy", "pictures": 2, "visited": 0},
        {"steps": 0},
        {"last": (0.5, 0.5)},
        {"denoising": -1.0},
    ],
)
def test_contradictions_are_refused(wrong: dict[str, object]) -> None:
    settings = {"method": "feedback", "text": 1.0, "prompts": PROMPTS} | wrong
    with pytest.raises(ConfigError):
        RewardConfig(**settings)  # type: ignore[arg-type]


def test_feedback_visits_no_path() -> None:
    """`visited` is of a policy alone, so that few steps need no other value of it."""
    assert RewardConfig(method="feedback", text=1.0, prompts=PROMPTS, steps=4).visited == 5
