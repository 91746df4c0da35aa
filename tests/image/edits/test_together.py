"""Several subjects in one picture: regions by hand, each weight in its own region, names, places, and mistakes."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from pcs_ext.errors import ArtifactError, UsageError
from pcs_ext.image.adapters import LowRankConfig, build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.edits import EDITS
from pcs_ext.image.edits.boxes import parse_box
from pcs_ext.image.edits.cast import Cast, folder_name, name_all, open_cast, several, split_subjects
from pcs_ext.image.edits.cones_2 import cones_2_layout
from pcs_ext.image.edits.members import Member, Player
from pcs_ext.image.edits.omg import OmgConfig, _second_pass, compose, omg, player_of
from pcs_ext.image.edits.regions import columns, disjoint
from pcs_ext.image.edits.together import draw_together, usual_method
from pcs_ext.image.learn import learn
from pcs_ext.image.recipes import RECIPES
from pcs_ext.image.sample import SampleConfig
from pcs_ext.image.subject import Artifact
from pcs_ext.image.types import Conditioning
from tests.support.command_line import run

SAMPLING = SampleConfig(scheduler="ddim", num_inference_steps=2, guidance_scale=2.0)
Learned = Callable[[str, str, str], Artifact]


def quick(**changes) -> OmgConfig:
    return dataclasses.replace(omg("sd"), **{"sampling": SAMPLING, "start": 0.0, **changes})


@pytest.fixture(scope="module")
def base(tiny_sd_path: Path) -> AbstractBackbone:
    return load_backbone(str(tiny_sd_path), device="cpu", precision="fp32")


@pytest.fixture
def learned(base: AbstractBackbone, photos: Path, tmp_path: Path) -> Learned:
    def make(name: str, noun: str, recipe: str) -> Artifact:
        full = RECIPES[recipe].build(noun, "toybox")
        small = dataclasses.replace(full, class_images=min(full.class_images, 2), sampling=SAMPLING).with_steps(1)
        return learn(photos, noun=noun, output=tmp_path / name, recipe=small, base=base)

    return make


def test_regions_by_hand() -> None:
    looks = torch.zeros(2, 4, 6)
    looks[0, :, :2], looks[1, :, 4:] = 1, 1
    found = disjoint(looks, [None, None], growth=1)
    assert found[0, 0].tolist() == [1, 1, 1, 0, 0, 0]
    assert found[1, 0].tolist() == [0, 0, 0, 1, 1, 1]
    grown = disjoint(looks, [None, None], growth=3)
    assert grown.sum(0).max() == 1, "no cell in two"
    assert grown[:, 0].sum() == 6
    given = disjoint(looks, [parse_box("x: 0 0 0.5 1"), parse_box("y: 0.25 0 1 0.5")], growth=1)
    assert given[0, 0].tolist() == [1, 1, 1, 0, 0, 0]
    assert given[1, 0].tolist() == [0, 0, 0, 1, 1, 1], "of two boxes the first has what both cover"
    assert not given[1, 2:].any()
    mixed = disjoint(looks, [parse_box("x: 0 0 1 0.5"), None], growth=0)
    assert mixed[1].nonzero().tolist() == [[2, 4], [2, 5], [3, 4], [3, 5]]
    left, right = columns(["a", "b"])
    assert (left.phrase, left.right < 0.5 < right.left) == ("a", True)


def test_names() -> None:
    words = {"rex": "<rex> dog", "pip": "sks robot"}
    assert name_all("a photo of {pip} and my {rex}", words) == "a photo of a sks robot and my <rex> dog"
    assert name_all("{subject} on grass", words) == "a <rex> dog and a sks robot on grass"
    with pytest.raises(UsageError, match=r"names toby; expected \{rex\}, \{pip\}, or \{subject\} for all"):
        name_all("a {toby}", words)
    assert folder_name(Path("some/My Rex")) == "my-rex"
    assert split_subjects(["a/rex", "pip", "a {rex}", "b {pip}"]) == (
        [Path("a/rex"), Path("pip")],
        ["a {rex}", "b {pip}"],
    )
    with pytest.raises(UsageError, match="no prompt names a subject"):
        split_subjects(["rex", "pip"])


def player(backbone: AbstractBackbone, column: int, config: OmgConfig) -> tuple[Member, Player]:
    """A member with large weights, in one half of the picture."""
    adapter = build_adapter(f"lora_{column}", LowRankConfig())
    with injected(backbone, adapter):
        for index, parameter in enumerate(adapter.parameters()["denoiser"]):
            generator = torch.Generator().manual_seed(10 * column + index)
            parameter.data = torch.randn(parameter.shape, generator=generator)
    member = Member([adapter], "a red dog on the cat", [3], [6], [3], None)
    region = torch.zeros(1, 8, 8)
    region[..., 4 * column : 4 * column + 4] = 1
    return member, player_of(backbone, member, region, "", config)


@torch.no_grad()
def test_every_weight_acts_in_its_own_region(sd: AbstractBackbone) -> None:
    config = quick(strength=1.0, self_maps=0.0, cross_maps=0.0)
    (one, left), (two, right) = (player(sd, column, config) for column in (0, 1))
    conditioning = Conditioning.cat([sd.encode_prompt(["", ""]), sd.encode_prompt(["a dog", "a dog"])])
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    timesteps = torch.full((4,), 400)
    plain = sd.predict(latents, timesteps, conditioning)
    both = _second_pass(sd, [one, two], [left, right], (8, 8), config)(sd.predict)(latents, timesteps, conditioning)
    alone = _second_pass(sd, [one], [left], (8, 8), config)(sd.predict)(latents, timesteps, conditioning)
    assert torch.equal(both[[0, 2]], plain[[0, 2]]), "the first branch is the first pass"
    assert torch.equal(both[..., :4], alone[..., :4]), "the other subject changes nothing here"
    assert torch.equal(alone[[1, 3]][..., 4:], plain[[1, 3]][..., 4:])
    own = right.predict(latents[[1, 3]], timesteps[:2])
    assert torch.equal(both[[1, 3]][..., 4:], own[..., 4:])
    assert (own - plain[[1, 3]]).abs().mean() > 0.01, "the weights are large enough to be seen"
    late = _second_pass(sd, [one], [left], (8, 8), quick(start=0.9))(sd.predict)(latents, timesteps, conditioning)
    torch.testing.assert_close(late[[0, 2]], plain[[0, 2]])
    assert torch.equal(sd.predict(latents, timesteps, conditioning), plain), "nothing is left behind"


@torch.no_grad()
def test_in_its_region_a_subject_does_not_look_at_the_others_words(sd: AbstractBackbone) -> None:
    from pcs_ext.image.attention import attention_program
    from pcs_ext.image.attention_edits import Capture

    torch.manual_seed(2)  # of the weights; with some a softmax underflows to 0 in a whole map
    _, left = player(sd, 0, quick())
    seen = Capture()
    with attention_program(sd, seen):
        left.predict(torch.randn(2, 4, 8, 8), torch.full((2,), 400))
    for maps in seen.seen.values():
        side = int(maps.shape[-2] ** 0.5)
        others = maps[1, ..., 6].mean(0).unflatten(0, (side, side))
        assert not others[:, : side // 2].any()
        assert others[:, side // 2 :].any()
        assert maps[0, ..., 6].any()


def test_members_that_are_what_the_base_draws_change_nothing(sd: AbstractBackbone) -> None:
    prompt = "a red dog on the cat"
    members = [Member([build_adapter(f"lora_{at}", LowRankConfig())], prompt, [at], [], [at], None) for at in (3, 6)]
    made = compose(sd, prompt, members, seed=1, config=quick())
    torch.testing.assert_close(made.picture, made.first, atol=1e-4, rtol=1e-4)
    assert made.regions.shape == (2, 8, 8)
    assert made.regions.sum(0).max() <= 1


def test_subjects_of_any_kind(learned: Learned, base: AbstractBackbone) -> None:
    cast = several(
        [learned("rex", "dog", "dreambooth-lora"), learned("pip", "cat", "textual-inversion")], ["rex", "pip"]
    )
    assert usual_method(cast) == "omg"
    prompts = ["a photo of {pip} on {rex}", "{subject}"]
    made = draw_together(cast, prompts, seeds=[0, 1], config=quick(), base=base)
    assert [(image.prompt, image.facts["seed"]) for image in made] == [(p, s) for p in prompts for s in (0, 1)]
    assert [box["phrase"] for box in made[0].facts["boxes"]] == ["pip", "rex"]
    assert [box["phrase"] for box in made[2].facts["boxes"]] == ["rex", "pip"]
    again = draw_together(cast, prompts[:1], seeds=[1], config=quick(), base=base)
    assert again[0].image.tobytes() == made[1].image.tobytes(), "a picture depends on its own seed alone"
    boxes = [parse_box("{rex}: 0 0 0.5 1")]
    placed = draw_together(cast, prompts[:1], seeds=[0], config=quick(), boxes=boxes, base=base)
    assert placed[0].facts["regions"]["rex"] == pytest.approx(0.5)
    free = draw_together(cast, prompts[:1], seeds=[0], config=quick(), arrange="base", base=base)
    assert free[0].facts["boxes"] == []
    for prompt, message in (
        ("a {rex}", r"\{pip\} never or more than once"),
        ("{rex} on {rex} on {pip}", r"\{rex\} never or more than once"),
        ("{rex} and {toby}", "names toby"),
    ):
        with pytest.raises(UsageError, match=message):
            draw_together(cast, [prompt], seeds=[0], config=quick(), base=base)
    with pytest.raises(UsageError, match="a box is for 'toby'; expected one of pip, rex"):
        draw_together(cast, prompts, seeds=[0], config=quick(), boxes=[parse_box("toby: 0 0 1 1")], base=base)
    with pytest.raises(UsageError, match="at least one prompt and one seed"):
        draw_together(cast, prompts, seeds=[], config=quick(), base=base)
    with pytest.raises(UsageError, match="two or more folders"):
        draw_together(Cast("x", None), prompts, seeds=[0], config=quick(), base=base)


def test_subjects_that_are_words_share_one_pass(learned: Learned, base: AbstractBackbone) -> None:
    rex = learned("rex", "dog", "cones-2")
    pip = Artifact(dataclasses.replace(rex.data, tensors={"residual": {"residual": torch.full((1, 16), 3.0)}}))
    cast = several([rex, pip], ["rex", "pip"])
    assert usual_method(cast) == "cones-2"
    layout = dataclasses.replace(cones_2_layout("sd"), sampling=SAMPLING)
    made = draw_together(cast, ["{pip} on {rex}"], seeds=[0], config=layout, base=base)
    assert [box["phrase"] for box in made[0].facts["boxes"]] == ["pip", "rex"]
    swapped = draw_together(cast, ["{rex} on {pip}"], seeds=[0], config=layout, base=base)
    assert swapped[0].image.tobytes() != made[0].image.tobytes()
    assert len(draw_together(cast, ["{pip} on {rex}"], seeds=[0], config=quick(), base=base)) == 1
    with pytest.raises(UsageError, match="needs places for its subjects"):
        draw_together(cast, ["{subject}"], seeds=[0], config=layout, arrange="base", base=base)
    heavy = several([learned("a", "dog", "dreambooth-lora"), learned("b", "cat", "dreambooth-lora")], ["a", "b"])
    with pytest.raises(UsageError, match="a, b changed the base's weights"):
        draw_together(heavy, ["{subject}"], seeds=[0], config=layout, base=base)
    other = Artifact(dataclasses.replace(pip.data, base_fingerprint="0" * 16))
    with pytest.raises(ArtifactError, match="must be learned on one base"):
        several([rex, other], ["rex", "pip"])


def test_other_ways_to_draw_several(learned: Learned, base: AbstractBackbone) -> None:
    rex, pip = learned("rex", "dog", "custom-diffusion"), learned("pip", "cat", "multibooth")
    cast = several([rex, pip], ["rex", "pip"])
    made = {}
    for name in ("multibooth", "mc2", "pacgen"):
        config = dataclasses.replace(EDITS[name].build("toybox"), sampling=SAMPLING)
        (image,) = draw_together(cast, ["a photo of {rex} on {pip}"], seeds=[1], config=config, base=base)
        assert (image.facts["edit"], image.facts["subjects"]) == (name, ["rex", "pip"])
        assert set(image.facts["regions"]) == {"rex", "pip"}
        assert [box["phrase"] for box in image.facts["boxes"]] == ([] if name == "mc2" else ["rex", "pip"])
        made[name] = image.image.tobytes()
        if name == "mc2":
            with pytest.raises(UsageError, match="lets subjects find their places"):
                draw_together(
                    cast, ["{subject}"], seeds=[1], config=config, boxes=[parse_box("rex: 0 0 1 1")], base=base
                )
        else:
            with pytest.raises(UsageError, match=f"{name} needs places"):
                draw_together(cast, ["{subject}"], seeds=[1], config=config, arrange="base", base=base)
    assert len(set(made.values())) == 3
    layered = several([rex, learned("zip", "cat", "p-plus")], ["rex", "zip"])
    config = dataclasses.replace(EDITS["multibooth"].build("toybox"), sampling=SAMPLING)
    assert len(draw_together(layered, ["{rex} on {zip}"], seeds=[1], config=config, base=base)) == 1
    heavy = several([learned("momo", "dog", "dreambooth-lora"), pip], ["momo", "pip"])
    config = dataclasses.replace(EDITS["multibooth"].build("toybox"), sampling=SAMPLING)
    with pytest.raises(UsageError, match="or take --method omg"):
        draw_together(heavy, ["{subject}"], seeds=[1], config=config, base=base)


def test_two_folders_and_a_prompt(learned: Learned, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, noun in (("rex", "dog"), ("pip", "cat")):
        learned(name, noun, "textual-inversion")
    rex, pip, out = (str(tmp_path / name) for name in ("rex", "pip", "out"))
    prompt, small = "a photo of {rex} and {pip}", ("-o", out, "--seeds", "3", "--steps", "1")
    code, printed, err = run("image", rex, pip, prompt, *small, capture=capsys)
    assert (code, printed.strip()) == (0, str(Path(out) / "00000.png")), err
    with Image.open(Path(out) / "00000.png") as image:
        facts = json.loads(image.info["pcs_ext"])
    assert (facts["edit"], facts["subjects"], facts["seed"]) == ("cones-2", ["rex", "pip"], 3)
    code, printed, err = run(
        "image", "together", rex, pip, "a {a} on {b}", "--names", "a", "b", "--method", "omg", "--box", "a: 0 0 1 0.5",
        *small, capture=capsys,
    )  # fmt: skip
    assert (code, printed.strip()) == (0, str(Path(out) / "00001.png")), err
    for arguments, expected, message in (
        ((rex, pip, "a {subject}", "--scale", "0.5"), 2, "are for one subject"),
        (("together", rex, pip), 2, "no prompt names a subject"),
        (("together", rex, rex, "a {rex}"), 2, "names must differ"),
        (("together", rex, str(tmp_path / "nobody"), "a {rex}"), 3, "nobody"),
        (("together", rex, "a {rex}"), 2, "two or more folders"),
    ):
        code, _, err = run("image", *arguments, capture=capsys)
        assert (code, message in err) == (expected, True), err


def test_what_is_about_a_word_is_renamed_with_it(learned: Learned, base: AbstractBackbone) -> None:
    from pcs_ext.image.edits.cast import subject_adapters
    from pcs_ext.image.merge.words import named_subjects

    perfusion = learned("rex", "dog", "perfusion")
    rex, _ = named_subjects([perfusion, learned("pip", "cat", "textual-inversion")], ["rex", "pip"])
    assert rex.words.startswith("<rex>")
    placeholders = {getattr(config, "placeholder", "<rex>") for config in rex.adapters.values()}
    assert placeholders == {"<rex>"}
    with torch.no_grad(), perfusion.applied(base):
        conditioning = base.encode_prompt([f"a {perfusion.concept.name}"])
        expected = base.predict(torch.ones(1, 4, 8, 8), torch.tensor([300]), conditioning)
    with torch.no_grad(), injected(base, *subject_adapters(rex, base)):
        found = base.predict(torch.ones(1, 4, 8, 8), torch.tensor([300]), base.encode_prompt([f"a {rex.words}"]))
    torch.testing.assert_close(found, expected)


def test_a_cast_of_one_or_none(learned: Learned, tmp_path: Path) -> None:
    learned("rex", "dog", "textual-inversion")
    one = open_cast([tmp_path / "rex"])
    assert one.words("a photo of {subject}") == "a photo of a <subject>"
    assert one.words("a cat") == "a cat"
    assert one.phrase("{subject}") == "<subject>"
    assert open_cast().hashes() == []
