"""DCI and FreeCure: shares and borrowed attention by hand, branches that keep to themselves, and the command."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from pcs_ext.config_io import to_jsonable
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.adapters import LowRankConfig, build_adapter, injected
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.attention_edits import AttentionEdit, Capture
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.concept_centric import concept_centric_guidance, guided_twice, sample_guided_twice
from pcs_ext.image.edits.dci import DciConfig, Integration, dci, sample_integrated, subject_share, word_share
from pcs_ext.image.edits.duet import duet
from pcs_ext.image.edits.freecure import BorrowedAttention, FreeCureConfig, freecure, last_layers, sample_cured
from pcs_ext.image.edits.heeding_pictures import draw_heeding
from pcs_ext.image.learn import learn
from pcs_ext.image.locate import LocateConfig
from pcs_ext.image.recipes import RECIPES
from pcs_ext.image.sample import SampleConfig, SampleHooks, sample
from tests.support.command_line import run

SAMPLING = SampleConfig(scheduler="ddim", num_inference_steps=3, guidance_scale=2.0)
PROMPT, PLAIN = "a red dog on the beach", "a dog on the beach"


def integrating(**changes) -> DciConfig:
    return dataclasses.replace(dci("toybox"), **{"sampling": SAMPLING, **changes})


def curing(**changes) -> FreeCureConfig:
    return dataclasses.replace(freecure("toybox"), **{"sampling": SAMPLING, "locate": LocateConfig(), **changes})


@pytest.fixture
def adapter(sd: AbstractBackbone) -> AbstractAdapter:
    """With large weights."""
    made = build_adapter("lora", LowRankConfig())
    with injected(sd, made):
        for index, parameter in enumerate(made.parameters()["denoiser"]):
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
    return made


def test_shares_by_hand() -> None:
    probabilities = torch.tensor([[[0.5, 0.1, 0.3, 0.1], [0.7, 0.1, 0.1, 0.1]]])  # a head, two cells, start mark first
    sharp = (10 * probabilities[..., 1:3]).softmax(-1)
    torch.testing.assert_close(word_share(probabilities, [2], 2), sharp[..., 1])
    assert float(word_share(probabilities, [2], 2)[0, 1]) == pytest.approx(0.5)
    torch.testing.assert_close(word_share(probabilities, [1, 2], 2), torch.ones(1, 2))
    concept, rest = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.2, 0.2]])
    ours = 500 * (10 * concept).softmax(-1)
    torch.testing.assert_close(subject_share(concept, rest, 2.0), torch.sigmoid(ours - 2 * 250.0))
    assert bool((subject_share(concept, rest, 0.0) > 0.5).all()), "without the context no cell is more the base's"


@torch.no_grad()
def test_the_base_draws_as_if_it_were_alone_and_the_subject_too(sd: AbstractBackbone, adapter: AbstractAdapter) -> None:
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    timesteps, told = torch.full((4,), 400), sd.encode_prompt(["", PLAIN])
    alone = sd.predict(latents[[0, 2]], timesteps[:2], told)
    with injected(sd, adapter):
        conditioning = sd.encode_prompt(["", "", PLAIN, PROMPT])
        subject = sd.predict(latents[[1, 3]], timesteps[:2], conditioning[[1, 3]])
        both = duet(sd, [adapter], told, [], [], guided=True)(sd.predict)(latents, timesteps, conditioning)
        late = duet(sd, [adapter], told, [], [], guided=True, last=0.3)(sd.predict)(latents, timesteps, conditioning)
    assert torch.equal(both[[0, 2]], alone)
    assert torch.equal(both[[1, 3]], subject)
    assert not late[[0, 2]].any()
    assert torch.equal(late[[1, 3]], subject)
    assert (subject - alone).abs().mean() > 0.01


@torch.no_grad()
def test_answers_are_mixed_cell_by_cell(sd: AbstractBackbone, adapter: AbstractAdapter) -> None:
    paths = sd.cross_attention_paths()[:1]
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).expand(4, -1, -1, -1)
    timesteps, told = torch.full((4,), 900), sd.encode_prompt(["", PLAIN])

    def outputs(context: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        merge, own, seen = Integration([2, 3], 6, [2], 5, row=1, context=context), Capture(), Capture()
        base = [AttentionEdit(program=merge.base_maps, paths=paths),
                AttentionEdit(program=merge.base_outputs, paths=paths, at="output")]  # fmt: skip
        subject = [AttentionEdit(program=merge.weigh, paths=paths)]
        subject += [AttentionEdit(program=program, paths=paths, at="output") for program in (own, merge.mix, seen)]
        with injected(sd, adapter):
            conditioning = sd.encode_prompt(["", "", PLAIN, PROMPT])
            duet(sd, [adapter], told, base, subject, guided=True)(sd.predict)(latents, timesteps, conditioning)
        return own.seen[paths[0]], merge.base_outputs.seen[paths[0]], seen.seen[paths[0]]

    own, base, mixed = outputs(-1e6)
    torch.testing.assert_close(mixed, own)
    own, base, mixed = outputs(1e6)
    assert torch.equal(mixed[0], own[0]), "the negative prompt belongs to nobody"
    torch.testing.assert_close(mixed[1], base[0])
    own, base, mixed = outputs(0.0)
    share = (mixed[1] - base[0]) / (own[1] - base[0])
    middle = share.median(-1).values
    assert bool(((middle > 0.5) & (middle <= 1.001)).all())


def test_switched_off_they_are_plain_sampling(sd: AbstractBackbone, adapter: AbstractAdapter) -> None:
    # A hook that does nothing keeps the adapter in its layers; merged weights differ by rounding, which these enlarge.
    apart = SampleHooks(on_step=lambda step, timestep, latents: latents)
    with injected(sd, adapter):
        with torch.no_grad():
            plain = sample(sd, [PROMPT], seeds=[3], config=SAMPLING, hooks=apart)
        off = sample_integrated(sd, [adapter], PROMPT, PLAIN, [2, 3], [2], seed=3, config=integrating(last=0.0))
        torch.testing.assert_close(off, plain, atol=1e-4, rtol=1e-4)
        on = sample_integrated(sd, [adapter], PROMPT, PLAIN, [2, 3], [2], seed=3, config=integrating(last=1.0))
        assert (on - plain).abs().max() > 1e-3
        off, mask = sample_cured(sd, [adapter], PROMPT, PLAIN, [5], seed=3, config=curing(last=0.0))
        torch.testing.assert_close(off, plain, atol=1e-4, rtol=1e-4)
        assert 0 < float(mask.mean()) < 1
        on, _ = sample_cured(sd, [adapter], PROMPT, PLAIN, [5], seed=3, config=curing(boost=9.0, layers=1.0))
        assert (on - plain).abs().max() > 1e-3
        with torch.no_grad():
            after = sample(sd, [PROMPT], seeds=[3], config=SAMPLING, hooks=apart)
    assert torch.equal(after, plain), "the subject's strength is what it was"


def test_borrowed_attention_by_hand() -> None:
    mask = torch.zeros(1, 1, 2, 2)
    mask[..., 0, 1] = 1
    host = BorrowedAttention(mask, row=1, boost=1.5)
    keys, base = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    host.base_keys("x", base)
    longer = host.longer_keys("x", keys)
    assert torch.equal(longer[:, :4], keys)
    assert torch.equal(longer[1, 4:], base[1])
    scores = torch.randn(2, 1, 4, 8, generator=torch.Generator().manual_seed(0))
    seen = host.inside("x", scores).softmax(-1)
    torch.testing.assert_close(seen[0, ..., :4], scores[0, ..., :4].softmax(-1))
    assert not seen[0, ..., 4:].any()
    expected = torch.cat([scores[1, ..., :4], scores[1, ..., 5:6] + 1.5], dim=-1).softmax(-1)
    torch.testing.assert_close(seen[1][..., [0, 1, 2, 3, 5]], expected)
    assert not seen[1][..., [4, 6, 7]].any()


@torch.no_grad()
def test_two_guidances_by_hand(sd: AbstractBackbone, adapter: AbstractAdapter) -> None:
    config = dataclasses.replace(concept_centric_guidance("sd"), sampling=SAMPLING, concept_scale=3.0)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).expand(2, -1, -1, -1)
    timesteps, told, nothing = torch.full((2,), 400), sd.encode_prompt(["", "wearing hat"]), sd.encode_prompt([""])
    base = sd.predict(latents, timesteps, told)
    with injected(sd, adapter):
        concept = sd.predict(latents[:1], timesteps[:1], nothing)[0]
        both = guided_twice(sd.predict, [adapter], nothing, config)(latents, timesteps, told)
    guided = both[0] + SAMPLING.guidance_scale * (both[1] - both[0])
    expected = base[0] + 3.0 * (concept - base[0]) + SAMPLING.guidance_scale * (base[1] - base[0])
    torch.testing.assert_close(guided, expected, atol=1e-3, rtol=1e-4)
    with injected(sd, adapter):
        plain = dataclasses.replace(config, concept_scale=0.0)
        without = sample_guided_twice(sd, [adapter], "wearing hat", seed=3, config=plain)
    torch.testing.assert_close(without, sample(sd, ["wearing hat"], seeds=[3], config=SAMPLING), atol=1e-4, rtol=1e-4)
    with pytest.raises(ConfigError, match="needs a guidance_scale other than 1"):
        dataclasses.replace(config, sampling=SampleConfig(guidance_scale=1.0))


def test_a_concept_is_learned_without_words(sd: AbstractBackbone, photos: Path, tmp_path: Path) -> None:
    asked: list[str] = []
    encode = sd.encode_prompt
    vars(sd)["encode_prompt"] = lambda prompts, **size: asked.extend(prompts) or encode(prompts, **size)
    recipe = dataclasses.replace(RECIPES["concept-centric"].build("dog", "toybox"), sampling=SAMPLING).with_steps(1)
    learn(photos, noun="dog", output=tmp_path / "dogs", recipe=recipe, base=sd)
    del vars(sd)["encode_prompt"]
    assert set(asked) == {""}


def test_which_layers(sd: AbstractBackbone) -> None:
    assert last_layers(sd, 1e-3) == (sd.cross_attention_paths()[-1].replace("attn2", "attn1"),)
    assert len(last_layers(sd, 1.0)) == len(sd.cross_attention_paths())
    for wrong in ({"layers": 0.0}, {"last": 2.0}):
        with pytest.raises(ConfigError, match="out of range"):
            curing(**wrong)
    with pytest.raises(ConfigError, match="out of range"):
        integrating(last=-1.0)


def test_the_command(tiny_sd_path: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = dataclasses.replace(RECIPES["textual-inversion"].build("dog", "toybox"), sampling=SAMPLING).with_steps(1)
    artifact = learn(photos, noun="dog", output=tmp_path / "rex", recipe=recipe, base=str(tiny_sd_path), device="cpu")
    rex, out = str(tmp_path / "rex"), tmp_path / "out"
    small = ("-o", str(out), "--seeds", "2", "--steps", "2")
    code, printed, err = run("image", "heed", rex, "a photo of {subject} on the beach", *small, capture=capsys)
    assert (code, printed.strip()) == (0, str(out / "00000.png")), err
    with Image.open(out / "00000.png") as image:
        assert json.loads(image.info["pcs_ext"])["edit"] == "dci"
    cure = ("image", "heed", rex, "a photo of {subject} in hat", "--method", "freecure", *small)
    config = tmp_path / "freecure.json"
    config.write_text(json.dumps(to_jsonable(curing())))
    code, printed, err = run(*cure, "--words", "hat", "--config", str(config), capture=capsys)
    assert (code, printed.strip()) == (0, str(out / "00001.png")), err
    for wrong, message in ((cure, "--words are what freecure"), ((*cure, "--words", "snow"), "does not stand in")):
        code, _, err = run(*wrong, capture=capsys)
        assert (code, message in err) == (2, True), err
    control = ("image", "heed", rex, "wearing hat", "--method", "concept-centric", *small)
    code, printed, err = run(*control, capture=capsys)
    assert (code, printed.strip()) == (0, str(out / "00002.png")), err
    with pytest.raises(UsageError, match="where the subject goes"):
        draw_heeding(artifact, ["wearing hat"], seeds=[0], config=integrating())
    with pytest.raises(UsageError, match="at least one prompt and one seed"):
        draw_heeding(artifact, [], seeds=[0], config=integrating())
