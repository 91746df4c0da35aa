"""C-LoRA and its ledger: nothing earlier moves, the penalty is the paper's, and a killed run goes on."""

import dataclasses
from pathlib import Path

import pytest
import torch

from pcs_ext.config_io import read_json, write_json
from pcs_ext.errors import ArtifactError, ConfigError, UsageError
from pcs_ext.image.adapters import LowRankConfig, build_adapter, injected
from pcs_ext.image.adapters.low_rank import LowRankAdapter
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.forgetting import Forgetting
from pcs_ext.image.ledger import Ledger
from pcs_ext.image.recipes.c_lora import KEYS_VALUES, c_lora
from pcs_ext.image.sample import SampleConfig

SMALL = LowRankConfig(method="lora", rank=2, targets=KEYS_VALUES)


def quick(name: str, weight: float = 1.0):
    """The toybox preset at a tiny size."""
    recipe = c_lora("dog", "toybox", token=f"<{name}>")
    phases = tuple(
        dataclasses.replace(phase, objective=dataclasses.replace(phase.objective, forgetting_weight=weight))
        for phase in recipe.phases
    )
    sampling = SampleConfig(num_inference_steps=2, guidance_scale=2.0)
    return dataclasses.replace(recipe, phases=phases, sampling=sampling).with_steps(4)


def filled(name: str, seed: int, backbone: AbstractBackbone, config: LowRankConfig = SMALL) -> LowRankAdapter:
    adapter = build_adapter(name, config)
    assert isinstance(adapter, LowRankAdapter)
    generator = torch.Generator().manual_seed(seed)
    with injected(backbone, adapter), torch.no_grad():
        for parameters in adapter.parameters().values():
            for parameter in parameters:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return adapter


def test_the_penalty_by_hand(sd: AbstractBackbone) -> None:
    first, second, third = (filled(name, seed, sd) for seed, name in enumerate(("a", "b", "c")))
    with injected(sd, first, second, third):
        updates = [
            {path: layer.update().detach() for path, layer in one.layers().items()} for one in (first, second, third)
        ]
        expected = sum(
            ((updates[0][path] + updates[1][path]).abs() * updates[2][path]).norm() ** 2 for path in updates[0]
        )
        forgetting = Forgetting([third])
        assert not forgetting.is_first
        value = forgetting()
        torch.testing.assert_close(value, torch.as_tensor(expected), rtol=1e-4, atol=0)
        for parameter in third.parameters()["denoiser"]:
            parameter.requires_grad_(True)
        forgetting().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in third.parameters()["denoiser"])
        assert all(p.grad is None for one in (first, second) for p in one.parameters()["denoiser"])


def test_where_nothing_changed_before_nothing_is_penalised(sd: AbstractBackbone) -> None:
    adapter = filled("a", 0, sd)
    with injected(sd, adapter):
        forgetting = Forgetting([adapter])
        assert forgetting.is_first
        assert forgetting().item() == 0


def test_methods_without_a_linear_update_are_refused(sd: AbstractBackbone) -> None:
    adapter = build_adapter("a", LowRankConfig(method="oft", rank=2, targets=KEYS_VALUES))
    with injected(sd, adapter), pytest.raises(ConfigError, match="linear in its factor"):
        Forgetting([adapter])


@pytest.fixture
def ledger(sd: AbstractBackbone, photos: Path, tmp_path: Path) -> Ledger:
    """Two subjects."""
    made = Ledger(tmp_path / "ledger")
    for name in ("rex", "fido"):
        made.add(photos, name=name, noun="dog", base=sd, recipe=quick(name))
    return made


def test_subjects_are_kept_in_order_and_untouched(
    ledger: Ledger, sd: AbstractBackbone, photos: Path, tmp_path: Path
) -> None:
    assert ledger.names == ("rex", "fido")
    rex, fido = ledger.artifacts()
    assert fido.data.training["after"] == [rex.data.content_hash]
    assert rex.data.training["after"] == []
    before = {path: path.read_bytes() for path in (ledger.folder / "rex").iterdir()}
    ledger.add(photos, name="spot", noun="dog", base=sd, recipe=quick("spot"))
    assert all(path.read_bytes() == content for path, content in before.items())


def test_the_penalty_takes_part_from_the_second_subject_on(sd: AbstractBackbone, photos: Path, tmp_path: Path) -> None:
    tensors = {}
    for weight in (0.0, 1e6):
        ledger = Ledger(tmp_path / f"{weight}")
        for name in ("rex", "fido"):
            artifact = ledger.add(photos, name=name, noun="dog", base=sd, recipe=quick(name, weight))
            tensors[weight, name] = artifact.data.tensors_of(next(n for n in artifact.data.adapters if "keys" in n))
    same = {name: all(torch.equal(tensors[0.0, name][k], v) for k, v in tensors[1e6, name].items())
            for name in ("rex", "fido")}  # fmt: skip
    assert same == {"rex": True, "fido": False}


def test_prompts_may_name_several_subjects(ledger: Ledger, sd: AbstractBackbone) -> None:
    assert ledger.prompt("a photo of {rex} and {fido}") == "a photo of a <rex> and a <fido>"
    images = ledger.generate(["a photo of {rex}", "a photo of {rex} and {fido}"], seeds=[1, 2], backbone=sd)
    assert [image.facts["seed"] for image in images] == [1, 2, 1, 2]
    with pytest.raises(UsageError, match="names spot"):
        ledger.prompt("a photo of {spot}")
    with pytest.raises(UsageError, match="no subject"):
        ledger.prompt("a photo of a dog")


def test_the_base_is_as_before_afterwards(ledger: Ledger, sd: AbstractBackbone) -> None:
    before = {name: value.clone() for name, value in sd.denoiser.state_dict().items()}
    with ledger.applied(sd):
        assert len(sd.tokenizers[0]) == len(sd.tokenizers[0].get_vocab())
    after = sd.denoiser.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_subject_that_was_learned_but_not_listed_is_listed_and_not_learned_again(
    ledger: Ledger, sd: AbstractBackbone, photos: Path
) -> None:
    # As a kill between the two writes leaves it.
    written = (ledger.folder / "fido" / "config.json").stat().st_mtime_ns
    write_json(ledger.folder / "ledger.json", {"schema_version": 1, "subjects": ["rex"]})
    ledger.add(photos, name="fido", noun="dog", base=sd, recipe=quick("fido"))
    assert ledger.names == ("rex", "fido")
    assert (ledger.folder / "fido" / "config.json").stat().st_mtime_ns == written


def test_plasticity_says_how_much_each_could_change(ledger: Ledger, sd: AbstractBackbone) -> None:
    rows = ledger.plasticity(sd)
    assert [row.name for row in rows] == ["rex", "fido"]
    assert all(row.update > 0 for row in rows)
    assert rows[0].overlap == 0
    assert 0 < rows[1].overlap < 1


@pytest.mark.parametrize("name", ["rex", "Rex", "", "a b", "../x", "{x}"])
def test_names_that_are_taken_or_unusable_are_refused(
    ledger: Ledger, sd: AbstractBackbone, photos: Path, name: str
) -> None:
    with pytest.raises(UsageError, match="cannot be named"):
        ledger.add(photos, name=name, noun="dog", base=sd)


def test_a_changed_ledger_is_noticed(ledger: Ledger) -> None:
    listed = read_json(ledger.folder / "ledger.json")
    write_json(ledger.folder / "ledger.json", {**listed, "subjects": ["fido", "rex"]})
    with pytest.raises(ArtifactError, match="on top of other subjects"):
        ledger.artifacts()
    write_json(ledger.folder / "ledger.json", {**listed, "subjects": ["rex", "gone"]})
    with pytest.raises(ArtifactError, match="gone"):
        ledger.artifacts()
    write_json(ledger.folder / "ledger.json", {**listed, "subjects": ["../../etc"]})
    with pytest.raises(ArtifactError, match="no list of subjects"):
        ledger.artifacts()
    with pytest.raises(ArtifactError, match="no subjects"):
        Ledger(ledger.folder / "nothing").base()
