"""Kosmos-G: the align loss by hand, what each part of the training teaches whom, and prompts with pictures in them."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pcs_ext.config_io import read_json, write_json
from pcs_ext.errors import ArtifactError, ModelError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data import find_photos
from pcs_ext.image.reference.aligner import Aligner, InverseAligner, align_losses
from pcs_ext.image.reference.encoder import open_encoder
from pcs_ext.image.reference.files import open_adapter, reading_of, save_adapter
from pcs_ext.image.reference.interleaved import segments
from pcs_ext.image.reference.kinds import build_adapter
from pcs_ext.image.reference.language_model import LanguageConfig, next_word_loss
from pcs_ext.image.reference.learn import learn_reference, parameter_groups
from pcs_ext.image.reference.reference import generate, show
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.reference.systems.kosmos_g import KosmosG, KosmosGConfig
from pcs_ext.image.reference.training import ReferenceLoss, ReferenceTraining
from tests.image.reference.test_kinds import bright_and_dark, opposite, said
from tests.support.tiny_albums import albums
from tests.support.tiny_language import tiny_language_model
from tests.support.tiny_reference import HIDDEN, TINY, at_random, drawn, tiny_system


def test_the_align_loss_by_hand() -> None:
    """Two prompts of one and two states, three places of a text encoder: errors 1 and 4, and 9 and the mean of 1 and 25
    on the way back, each weighed by 3 over its length."""
    target, made = torch.zeros(2, 3, 2), torch.tensor([1.0, 2.0])[:, None, None].expand(2, 3, 2)
    states, again = torch.zeros(2, 2, 4), torch.tensor([[3.0, 100.0], [1.0, 5.0]])[..., None].expand(2, 2, 4)
    there = torch.tensor([[True, False], [True, True]])
    aligned, reconstructed = align_losses(made, target, again, states, there)
    assert float(aligned) == pytest.approx((1 + 4) / 2)
    assert float(reconstructed) == pytest.approx((9 * 3 / 1 + (1 + 25) / 2 * 3 / 2) / 2)


@torch.no_grad()
def test_an_aligner_makes_every_place_and_its_inverse_every_state() -> None:
    torch.manual_seed(0)
    aligner = Aligner(6, 5, 7, width=8, depth=1, heads=2).eval()
    inverse = InverseAligner(5, 6, width=8, depth=1, heads=2).eval()
    states, there = drawn(2, 4, 6), torch.tensor([[True] * 4, [True, True, False, False]])
    made = aligner(states, there)
    again = inverse(made, there)
    assert (made.shape, again.shape) == ((2, 7, 5), (2, 4, 6))
    torch.testing.assert_close(aligner(states[1:, :2], there[1:, :2])[0], made[1], msg="padding counts")
    torch.testing.assert_close(inverse(made[1:], there[1:, :2])[0], again[1, :2])
    # States in another order are another text.
    assert (aligner(states.flip(1), there) - made)[0].abs().max() > 1e-3


@torch.no_grad()
def test_the_aligned_states_stand_in_the_text_encoders_place(sd: AbstractBackbone, eye: Path) -> None:
    adapter, _ = tiny_system("kosmos-g", sd, eye)
    assert isinstance(adapter, KosmosG)
    at_random(adapter, sd)
    adapter.eval()
    features = drawn(2, 2, 16, HIDDEN)
    shown = Shown(sight=Sight(features=features), nouns=(("dog", "cat"),) * 2, seen=torch.tensor([True, False]))
    prompts = ["<2> on the beach", "the cat"]
    read = adapter.model([[1, "on the beach"], ["the cat"]], features)
    made = adapter.aligner(read.states, read.there)
    told = adapter.conditioned(sd, sd.encode_prompt, prompts, shown)
    torch.testing.assert_close(told.states, made)
    words = sd.encode_prompt(["cat on the beach", "the cat"]).states
    half = adapter.conditioned(sd, sd.encode_prompt, prompts, shown, scale=0.5)
    torch.testing.assert_close(half.states, (words + made) / 2)
    assert torch.equal(adapter.conditioned(sd, sd.encode_prompt, prompts, shown, scale=0).states, words)
    nameless = Shown(sight=Sight(features=features))
    first = adapter.conditioned(sd, sd.encode_prompt, ["on the beach"] * 2, nameless)
    read = adapter.model([[0, 1, "on the beach"]] * 2, features)
    torch.testing.assert_close(first.states, adapter.aligner(read.states, read.there))


def training(sd: AbstractBackbone, eye: Path) -> tuple[KosmosG, ReferenceLoss]:
    adapter, encoder = tiny_system("kosmos-g", sd, eye)
    assert isinstance(adapter, KosmosG)
    sight = opposite(Sight(features=drawn(1, 16, HIDDEN)))
    settings = ReferenceTraining(batch_size=8, drop_image=0.0, drop_text=0.0, drop_both=0.0)
    blank = sight.map(lambda x: 0 * x[0])
    return adapter.train(), ReferenceLoss(sd, adapter, bright_and_dark(sight), settings, blank, encoder=encoder)


def test_parts_of_the_training_teach_what_they_are_for(sd: AbstractBackbone, eye: Path) -> None:
    adapter, loss = training(sd, eye)
    own = {name: group for name, group in adapter.groups().items() if group}
    taught = {
        "language": ({"language"}, {"language", "pictures"}),
        "align": ({"align", "reconstruction"}, {"aligner", "inverse"}),
        "instruct": ({"denoising"}, {"language", "pictures", "aligner"}),
    }
    for stage in adapter.stages:
        adapter.begin_stage(stage.name)
        terms, groups = taught[stage.name]
        found = loss(0, 0, torch.Generator().manual_seed(0))
        assert found.terms.keys() == terms
        assert set(stage.trains) == groups
        for name, parameters in own.items():
            gradients = torch.autograd.grad(found.total, parameters, retain_graph=True, allow_unused=True)
            assert all((gradient is not None) == (name in groups) for gradient in gradients), (stage.name, name)


def test_the_terms_are_those_of_the_paper(sd: AbstractBackbone, eye: Path) -> None:
    adapter, loss = training(sd, eye)
    adapter.begin_stage("align")
    terms = loss(0, 0, torch.Generator().manual_seed(0)).terms
    features = drawn(8, 1, 16, HIDDEN)
    read = adapter.model([["a photo of the dog"]] * 8, features)
    made = adapter.aligner(read.states, read.there)
    target = sd.encode_prompt(["a photo of the dog"] * 8).states
    torch.testing.assert_close(terms["align"], (made - target).square().mean())
    again = adapter.inverse(made, read.there)
    back = (again - read.states).square().mean() * target.shape[1] / read.states.shape[1]
    torch.testing.assert_close(terms["reconstruction"], back)
    adapter.begin_stage("language")
    drawn_pairs = loss._drawn(torch.Generator().manual_seed(0))
    read = adapter.model(
        [segments(text) for text in drawn_pairs.captions], drawn_pairs.shown.sight.features, whole=True
    )
    terms = loss(0, 0, torch.Generator().manual_seed(0)).terms
    torch.testing.assert_close(terms["language"], next_word_loss(adapter.model.language, read))


def test_captions_show_pictures_in_all_ways(sd: AbstractBackbone, eye: Path) -> None:
    adapter, loss = training(sd, eye)
    loss.settings = dataclasses.replace(loss.settings, batch_size=64)
    first, behind, instead = "<1> a photo of the dog", "a photo of the dog <1>", "a photo of the <1>"
    adapter.begin_stage("instruct")
    assert set(loss._drawn(torch.Generator().manual_seed(0)).captions) == {behind, instead}
    adapter.begin_stage("language")
    captions = loss._drawn(torch.Generator().manual_seed(0)).captions
    assert set(captions) == {first, behind, instead}
    assert 20 < captions.count(first) < 44


def test_a_language_model_of_a_folder_stays_there(
    sd: AbstractBackbone, eye: Path, photos: Path, tmp_path: Path
) -> None:
    folder, _ = tiny_language_model(tmp_path / "lm")
    encoder = open_encoder(eye, "patches")
    tiny = TINY["kosmos-g"]
    assert isinstance(tiny, KosmosGConfig)
    config = dataclasses.replace(tiny, language=LanguageConfig(folder=str(folder), trains=False))
    adapter = build_adapter(config, sd, reading_of(encoder), seed=0)
    assert adapter.groups()["language"] == ()
    assert len(adapter.elsewhere) == 8, "a training that goes on asks for the same model"
    assert isinstance(adapter, KosmosG)
    adapter.requires_grad_(True)
    parameter_groups(adapter, adapter.stages[-1], ReferenceTraining())
    assert not any(parameter.requires_grad for parameter in adapter.model.language.parameters())
    settings = dataclasses.replace(said("kosmos-g", sd, encoder, eye), adapter=config)
    save_adapter(adapter, settings, tmp_path / "ours", half=False)
    stored = open_adapter(sd, str(tmp_path / "ours")).adapter
    state = adapter.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in stored.state_dict().items())
    with TensorsMade() as made:
        assert not any("body" in key for key in adapter.published())
    assert made.numbers == sum(tensor.numel() for tensor in adapter.published().values()), "what is kept is not copied"
    tiny_language_model(tmp_path / "other", "gpt2")
    swapped = dataclasses.replace(config, language=LanguageConfig(folder=str(tmp_path / "other"), trains=False))
    save_adapter(adapter, dataclasses.replace(settings, adapter=swapped), tmp_path / "swapped", half=False)
    with pytest.raises(ArtifactError, match="was trained with a language model"):
        open_adapter(sd, str(tmp_path / "swapped"))


def test_a_folder_named_from_here_is_found_from_elsewhere(
    sd: AbstractBackbone, tiny_sd_path: Path, eye: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    tiny_language_model(here / "lm")
    there.mkdir()
    albums(here / "pairs")
    tiny = TINY["kosmos-g"]
    assert isinstance(tiny, KosmosGConfig)
    config = dataclasses.replace(tiny, language=LanguageConfig(folder="lm", trains=False))
    write_json(here / "tiny.json", {"adapter": config, "steps": 5, "batch_size": 2})
    monkeypatch.chdir(here)
    learn_reference(
        Path("pairs"), Path("ours"), system="kosmos-g", base=str(tiny_sd_path), encoder=str(eye),
        config=Path("tiny.json"), device="cpu", precision="fp32",
    )  # fmt: skip
    monkeypatch.chdir(there)
    assert isinstance(open_adapter(sd, str(here / "ours")).adapter, KosmosG)
    (here / "lm").rename(here / "moved")
    with pytest.raises(ModelError, match=r"here/lm, and there is no such folder.*language.folder in the adapter's con"):
        open_adapter(sd, str(here / "ours"))
    said_of_it = read_json(here / "ours" / "config.json")
    said_of_it["adapter"]["language"]["folder"] = "lm"  # as it was stored before
    write_json(here / "ours" / "config.json", said_of_it)
    with pytest.raises(ModelError, match="is lm, which is neither a folder in .*there nor in the hub cache.*config.js"):
        open_adapter(sd, str(here / "ours"))


class TensorsMade(TorchDispatchMode):
    """Counts the numbers of all copies that are made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.clone.default):
            self.numbers += made.numel()
        return made


def test_marks_are_read_by_those_who_can(sd: AbstractBackbone, eye: Path, photos: Path, tmp_path: Path) -> None:
    for system in ("kosmos-g", "photomaker"):
        adapter, encoder = tiny_system(system, sd, eye)
        at_random(adapter, sd)
        save_adapter(adapter, said(system, sd, encoder, eye), tmp_path / system, half=False)
    reads, cannot = ({"adapter": str(tmp_path / name), "base": sd, "steps": 1} for name in ("kosmos-g", "photomaker"))
    one = photos / "0.png"
    images = generate(["<1> on the beach", "on the beach"], [one], **reads)
    assert images[0].prompt == "<1> on the beach"
    with pytest.raises(UsageError, match="shows picture 2, and there are 1"):
        generate("<1> and <2>", [one], **reads)
    with pytest.raises(UsageError, match="does not name the dog"):
        generate("a cat", [one], nouns=["dog"], **reads)
    with pytest.raises(UsageError, match="reads words alone"):
        generate("the dog <1>", [one], nouns=["dog"], **cannot)
    assert show(sd, find_photos([one]), adapter=str(tmp_path / "kosmos-g")).nouns == ()
