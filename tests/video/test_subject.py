"""Subjects of the core in video models: the same picture by picture, nothing temporal touched, gone without a trace."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from pcs_ext.artifact import ArtifactData
from pcs_ext.config_io import to_jsonable
from pcs_ext.errors import ArtifactError
from pcs_ext.image.adapters import (
    AdapterConfig,
    Attribute,
    AttributesConfig,
    BasisConfig,
    CrossAttentionConfig,
    DistributionConfig,
    EmbeddingConfig,
    FeatureFieldConfig,
    FrameWordConfig,
    FullConfig,
    GuideConfig,
    HeadFactorsConfig,
    ImageResidualConfig,
    ImageWordsConfig,
    LiDBConfig,
    LowRankConfig,
    MixtureConfig,
    NetiConfig,
    NeuronsConfig,
    PairConfig,
    RankOneConfig,
    ReferenceAdapter,
    ReferenceConfig,
    ResidualConfig,
    SideNetworkConfig,
    SpectralShiftConfig,
    SpectrumConfig,
    StageWordsConfig,
    StepwiseConfig,
    TailConfig,
    TextPrefixConfig,
    ValueResidualConfig,
    build_adapter,
)
from pcs_ext.image.adapters.base import injected
from pcs_ext.image.adapters.layers import AdapterLayer
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes import RECIPES
from pcs_ext.image.subject import Artifact
from pcs_ext.video.backbone import AbstractVideoBackbone, to_clips, to_frames
from pcs_ext.video.backbones.animatediff import AnimateDiffBackbone
from pcs_ext.video.backbones.inflated import InflatedBackbone
from pcs_ext.video.backbones.load import load_video_backbone
from pcs_ext.video.backbones.modelscope import grow_unet3d
from pcs_ext.video.learn import learn_motion
from pcs_ext.video.recipes import LayersConfig, MotionPass, MotionPhase, MotionRecipe
from pcs_ext.video.subject import subject_applied
from tests.support.tiny_video import tiny_motion_adapter, tiny_text_to_video, tiny_unet2d
from tests.support.tiny_wan import tiny_wan

SUBJECTS: dict[str, AdapterConfig] = {
    "word": EmbeddingConfig(placeholder="<subject>", initializer="dog", num_vectors=2, init_noise=0.1),
    "lora": LowRankConfig(rank=2, targets="attention+ff", components=("denoiser", "text_encoder")),
    "all layers": LowRankConfig(rank=2, targets="all_linear_conv"),
    "keys and values": CrossAttentionConfig(),
    "side_network": SideNetworkConfig(targets=(r"\.attn2$",)),
    "weights": FullConfig(components=("denoiser", "text_encoder")),
}
FRAMES = 3


WORD = EmbeddingConfig(initializer="dog", init_noise=0.1)
EVERY_KIND: tuple[tuple[AdapterConfig, ...], ...] = (
    (WORD,),
    (BasisConfig(names=("dog beach", "cat photo", "red dog")),),
    (MixtureConfig(placeholder="<subject>", words=("dog", "cat", "photo", "beach"), take=2, width=8),),
    (EmbeddingConfig(placeholder="<one>"), AttributesConfig(attributes=(Attribute(word="<one>"),))),
    (WORD, FrameWordConfig(placeholder="<motion>", frames=3)),
    (SpectrumConfig(num_vectors=2, initializer="dog"),),
    (NetiConfig(initializer="dog", frequencies=16, anchors=4, width=8, nested_dropout=0.0),),
    (TailConfig(num_vectors=3, initializer="a photo of the dog"),),
    (ResidualConfig(class_noun="dog", templates=("a photo of {subject}",)),),
    (TextPrefixConfig(layers=1),),
    (DistributionConfig(meanings=3, num_vectors=2),),
    (StageWordsConfig(initializer="dog", features=16, anchors=4, width=8),),
    (StepwiseConfig(stages=3, initializer="dog"),),
    (ImageWordsConfig(placeholder="<subject>", initializer="dog", width=6),),
    (WORD, ImageResidualConfig(width=6)),
    (LowRankConfig(rank=2, components=("denoiser", "text_encoder")),),
    (SpectralShiftConfig(),),
    (WORD, RankOneConfig(class_noun="dog")),
    (CrossAttentionConfig(),),
    (NeuronsConfig(share=0.1),),
    (HeadFactorsConfig(),),
    (WORD, PairConfig(phrase="in ink", rank=2)),
    (WORD, ReferenceConfig()),
    (ValueResidualConfig(class_noun="dog"),),
    (SideNetworkConfig(targets=(r"\.attn2$",)),),
    (LiDBConfig(up=12, down=6),),
    (WORD, GuideConfig(regions=("<subject>",))),
    (WORD, FeatureFieldConfig(caption="a photo of <subject>", samples=4, width=8)),
    (FullConfig(),),
)
"""Of each kind of adapter the last one of a subject, behind the words that it needs."""
REFUSED = {"reference"}


def artifact(backbone: AbstractBackbone, *configs: AdapterConfig) -> Artifact:
    """A subject whose adapters hold random values."""
    adapters = [build_adapter(f"rex{number or ''}", config) for number, config in enumerate(configs)]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad(), injected(backbone, *adapters):
        for adapter in adapters:
            for group in adapter.parameters().values():
                for parameter in group:
                    parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
            if isinstance(adapter, ReferenceAdapter):
                adapter.reference = torch.randn(4, 8, 8, generator=generator)
    recipe = RECIPES["textual-inversion"].build("dog", "sd")
    data = ArtifactData(
        recipe=to_jsonable(recipe),
        concept=to_jsonable(recipe.concept),
        adapters={adapter.name: to_jsonable(config) for adapter, config in zip(adapters, configs, strict=True)},
        tensors={adapter.name: adapter.state_dict() for adapter in adapters},
        base_name=backbone.name,
        base_fingerprint=backbone.fingerprint,
        base_family=backbone.family,
        training={},
    )
    return Artifact(data)


@pytest.fixture
def image(tiny_sd_path: Path, tmp_path: Path) -> AbstractUnetBackbone:
    """An image model whose heads have one width, so that a text-to-video model can grow from it."""
    folder = shutil.copytree(tiny_sd_path, tmp_path / "sd2")
    shutil.rmtree(folder / "unet")
    tiny_unet2d().save_pretrained(folder / "unet")
    return load_backbone(folder, device="cpu", precision="fp32")


@pytest.fixture(params=["animatediff", "inflated", "modelscope"])
def video(request: pytest.FixtureRequest, image: AbstractUnetBackbone, tmp_path: Path) -> Iterator[Any]:
    if request.param == "modelscope":
        folder = tiny_text_to_video(tmp_path / "sd2", tmp_path / "t2v")
        shutil.rmtree(folder / "unet")
        grown = grow_unet3d(image.denoiser)
        for name, parameter in grown.named_parameters():
            # A grown model has still layers over frames; a trained one does not.
            if "temp_" in name and (".proj_out." in name or ".conv4." in name):
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
        grown.save_pretrained(folder / "unet")
        yield load_video_backbone(folder, device="cpu", precision="fp32")
        return
    motion = tiny_motion_adapter()
    backbone = AnimateDiffBackbone(image, motion) if request.param == "animatediff" else InflatedBackbone(image)
    yield backbone
    backbone.remove()


def clip(backbone: AbstractVideoBackbone, text: str = "a photo of a <subject>") -> torch.Tensor:
    noisy = torch.randn(1, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(5))
    return backbone.predict(noisy, torch.tensor([400]), backbone.encode_prompt([text]))


def picture(backbone: AbstractBackbone) -> torch.Tensor:
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(6))
    return backbone.predict(noisy, torch.tensor([400, 20]), backbone.encode_prompt(["a photo of a <subject>", "a"]))


def stand_ins(backbone: AbstractVideoBackbone) -> list[str]:
    return [
        f"{name}.{path}"
        for name, module in backbone.components().items()
        for path, layer in module.named_modules()
        if isinstance(layer, AdapterLayer)
    ]


@torch.no_grad()
@pytest.mark.parametrize("kind", list(SUBJECTS))
def test_a_subject_is_itself_in_every_frame_and_leaves_no_trace(
    kind: str, image: AbstractUnetBackbone, video: AbstractVideoBackbone
) -> None:
    subject = artifact(image, SUBJECTS[kind])
    plain = picture(image)
    with subject.applied(image):
        true = picture(image)
    assert (true - plain).abs().max() > 1e-3
    before = clip(video)
    with subject_applied(subject, video):
        torch.testing.assert_close(picture(video), true, atol=2e-5, rtol=1e-3)
        assert not torch.equal(clip(video), before)
        assert not [path for path in stand_ins(video) if re.search(r"temp_|^motion|transformer_in", path)]
    assert torch.equal(clip(video), before)
    assert stand_ins(video) == []
    if kind != "word":  # whose words are the starting ones at 0, not none
        with subject_applied(subject, video, scale=0.0):
            torch.testing.assert_close(clip(video), before, atol=1e-6, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("configs", EVERY_KIND, ids=lambda configs: configs[-1].kind)
def test_every_kind_of_adapter_is_itself_in_clips_or_says_why_not(
    configs: tuple[AdapterConfig, ...], image: AbstractUnetBackbone, video: AbstractVideoBackbone
) -> None:
    subject = artifact(image, *configs)
    if configs[-1].kind in REFUSED:
        before = clip(video)
        with pytest.raises(ArtifactError, match="learn it with another recipe"), subject_applied(subject, video):
            pass
        assert torch.equal(clip(video), before)
        return
    texts = ["a photo of a <subject> dog in ink", "a red cat"]
    noisy = torch.randn(2, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(7))
    with subject.applied(image):  # before any clip: the two share their layers
        told = image.encode_prompt([text for text in texts for _ in range(FRAMES)])
        true = image.predict(to_frames(noisy), torch.tensor([400, 20]).repeat_interleave(FRAMES), told)
    before = clip(video)
    with subject_applied(subject, video), video.frame_by_frame():
        made = video.predict(noisy, torch.tensor([400, 20]), video.encode_prompt(texts))
        torch.testing.assert_close(made, to_clips(true, 2), atol=2e-5, rtol=1e-3)
        assert not [path for path in stand_ins(video) if re.search(r"temp_|^motion|transformer_in", path)]
    with subject_applied(subject, video):
        video.predict(noisy, torch.tensor([400, 20]), video.encode_prompt(texts))
    assert torch.equal(clip(video), before)


def test_no_kind_of_adapter_is_forgotten() -> None:
    known = get_args(get_args(AdapterConfig)[0])
    assert sorted(config.__name__ for config in known) == sorted(type(configs[-1]).__name__ for configs in EVERY_KIND)


def recipe(video: AbstractVideoBackbone) -> MotionRecipe:
    return MotionRecipe(
        id="test",
        adapters={"motion": LayersConfig(layers="temporal", rank=2)},
        phases=(
            MotionPhase(
                name="only",
                passes=(MotionPass(trains=("motion",), losses={"denoising": 1.0}),),
                learning_rates={"motion": 1e-1},
                fit=FitConfig(steps=3),
            ),
        ),
        plays=("motion",),
        inflation=video.attention if isinstance(video, InflatedBackbone) else None,
        frames=FRAMES,
    )


@pytest.mark.parametrize("kind", ["lora", "weights"])
def test_a_subject_and_a_motion_meet_in_any_order_and_at_any_strength(
    kind: str, image: AbstractUnetBackbone, video: AbstractVideoBackbone, tmp_path: Path
) -> None:
    subject = artifact(image, SUBJECTS[kind])
    frames = torch.rand(3, FRAMES, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    motion = learn_motion([frames], ["a dog"], tmp_path / "m", backbone=video, recipe=recipe(video))
    with torch.no_grad():
        before = clip(video)
        with subject_applied(subject, video), motion.applied(video):
            both, still = clip(video), picture(video)
        with motion.applied(video), subject_applied(subject, video):
            assert torch.equal(clip(video), both)
        with subject_applied(subject, video):
            alone = clip(video)
            # A picture passes by everything temporal: the motion changes no look.
            assert torch.equal(picture(video), still)
        with motion.applied(video):
            moving = clip(video)
        for one, other in ((both, alone), (both, moving), (alone, before), (moving, before)):
            assert (one - other).abs().max() > 1e-4
        with subject_applied(subject, video, scale=0.0), motion.applied(video):
            torch.testing.assert_close(clip(video), moving, atol=1e-5, rtol=1e-4)
        with subject_applied(subject, video), motion.applied(video, scale=0.0):
            torch.testing.assert_close(clip(video), alone, atol=1e-5, rtol=1e-4)
        assert torch.equal(clip(video), before)


def test_a_subject_of_a_transformer_shares_its_layers_with_a_motion(tmp_path: Path) -> None:
    wan: Any = load_video_backbone(tiny_wan(tmp_path / "wan"), device="cpu", precision="fp32")
    subject = artifact(wan, LowRankConfig(rank=2, targets=wan.targets("spatial").patterns))
    prompt, level = wan.encode_prompt(["a red dog"]), torch.tensor([500.0])
    noisy = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = wan.predict(noisy, level, prompt)
        with subject.applied(wan):
            true = wan.predict(noisy, level, prompt)
        with subject_applied(subject, wan):
            assert torch.equal(wan.predict(noisy, level, prompt), true)
        assert torch.equal(wan.predict(noisy, level, prompt), before)


def test_a_subject_of_another_family_or_layout_is_named(
    image: AbstractUnetBackbone, sd: AbstractUnetBackbone, sdxl: AbstractUnetBackbone
) -> None:
    video = AnimateDiffBackbone(image, tiny_motion_adapter())
    large = artifact(sdxl, LowRankConfig(rank=2))
    with (
        pytest.raises(ArtifactError, match="learned on a sdxl base .* takes subjects of sd bases"),
        subject_applied(large, video),
    ):
        pass
    # `sd` has attention where `image` has none.
    with (
        pytest.raises(ArtifactError, match="was it made for another base or configuration"),
        subject_applied(artifact(sd, LowRankConfig(rank=2)), video),
    ):
        pass
    assert stand_ins(video) == []
