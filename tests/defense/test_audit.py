"""The auditor: reads every format as numbers, leaves the base alone, tells a false claim from a true one."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pcs_ext.artifact import ArtifactData
from pcs_ext.cli import main
from pcs_ext.config_io import to_jsonable
from pcs_ext.defense.audit.applied import applied, stand_in
from pcs_ext.defense.audit.command import audit, taken_words
from pcs_ext.defense.audit.contents import read_contents
from pcs_ext.defense.audit.likelihood import explanation
from pcs_ext.defense.audit.method import AuditMethod
from pcs_ext.defense.audit.painting import Reference
from pcs_ext.defense.audit.probes import Behaviour, LostNoun, WordScore, stands_out, switches
from pcs_ext.defense.audit.recipes import RECIPES
from pcs_ext.defense.audit.structure import changed_words, layer_facts
from pcs_ext.defense.audit.verdict import is_another, judge_behaviour, taken_over
from pcs_ext.defense.audit.vocabulary import token_table
from pcs_ext.errors import ArtifactError, ConfigError, UsageError
from pcs_ext.image.adapters import AdapterConfig, FullConfig, LowRankConfig, build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.concept import Concept
from pcs_ext.image.export.diffusers_lora import export_diffusers_lora
from pcs_ext.image.export.kohya import export_kohya
from pcs_ext.image.export.peft_folder import export_peft
from pcs_ext.image.recipes.textual_inversion import textual_inversion
from pcs_ext.image.subject import Artifact
from pcs_ext.systems import catalogue
from tests.support.tiny import tiny_backbone

QUICK = AuditMethod(
    id="audit", words=8, painted=4, nouns=12, draws=1, pictures=2, picture_steps=6, picture_levels=(0.45, 0.75)
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> AbstractBackbone:
    return tiny_backbone(tmp_path_factory.mktemp("audit") / "model")


@pytest.fixture(scope="module")
def reference(toybox: AbstractBackbone) -> Reference:
    """What toybox paints by itself, asked once for all tests."""
    return Reference(toybox, QUICK)


def artifact(backbone: AbstractBackbone, config: AdapterConfig, concept: Concept) -> ArtifactData:
    """A learned subject with random changes."""
    adapter = build_adapter("change", config)
    torch.manual_seed(1)
    with injected(backbone, adapter):
        for group in adapter.parameters().values():
            for parameter in group:
                parameter.data += 0.1 * torch.randn_like(parameter)
        tensors = adapter.state_dict()
    return ArtifactData(
        recipe=to_jsonable(textual_inversion("dog", "toybox")),
        concept=to_jsonable(concept),
        adapters={"change": to_jsonable(config)},
        tensors={"change": tensors},
        base_name=backbone.name,
        base_fingerprint=backbone.fingerprint,
        base_family="sd",
        training={},
    )


def prediction(backbone: AbstractBackbone, prompt: str) -> torch.Tensor:
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return backbone.predict(latents, torch.tensor([500]), backbone.encode_prompt([prompt]))


RARE = Concept(class_noun="dog", mode="rare", token="sks")


@pytest.mark.parametrize("form", ["artifact", "kohya", "diffusers", "peft", "loha"])
def test_every_format_does_to_the_base_what_its_loader_does_and_leaves_no_trace(
    form: str, tiny: AbstractBackbone, tmp_path: Path
) -> None:
    method = "loha" if form == "loha" else "lora"
    text = ("denoiser",) if form == "peft" else ("denoiser", "text_encoder")
    config = LowRankConfig(method=method, rank=3, alpha=6.0, components=text)  # type: ignore[arg-type]
    data = artifact(tiny, config, RARE)
    path = tmp_path / "file"
    if form == "artifact":
        data.save(path)
    elif form == "diffusers":
        path = export_diffusers_lora(data, path)
    elif form == "peft":
        path = export_peft(data, path)[0]
    else:
        path = export_kohya(data, path)
    plain = prediction(tiny, "a photo of sks dog")
    with Artifact(data).applied(tiny):
        expected = prediction(tiny, "a photo of sks dog")
    contents = read_contents(path)
    assert not contents.unread
    with applied(contents, tiny):
        found = prediction(tiny, "a photo of sks dog")
    assert torch.equal(prediction(tiny, "a photo of sks dog"), plain)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, plain, atol=1e-3)
    ranks = layer_facts(contents.layers)["ranks"]
    assert ranks == [3]


def test_a_spectrum_is_that_of_the_product(tiny: AbstractBackbone) -> None:
    data = artifact(tiny, LowRankConfig(rank=2, alpha=4.0), RARE)
    data.save(Path(tiny.name).parent / "spectrum")
    layer = read_contents(Path(tiny.name).parent / "spectrum").layers[0]
    product = 2.0 * layer.tensors["up"] @ layer.tensors["down"]
    values = layer.singular_values()
    assert values is not None
    torch.testing.assert_close(values, torch.linalg.svdvals(product)[:2], rtol=1e-4, atol=1e-5)


def test_pickles_are_refused_whatever_they_are_called(tmp_path: Path) -> None:
    for name in ("token.pt", "token.safetensors", "token"):
        torch.save({"a": torch.zeros(2)}, tmp_path / name)
        with pytest.raises(ArtifactError, match="is a pickle.*\n.*weights_only=True"):
            read_contents(tmp_path / name)
    torch.save({"a": torch.zeros(2)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "old.bin").rename(folder / "old.bin")
    with pytest.raises(ArtifactError, match="is a pickle"):
        read_contents(folder)


def test_what_cannot_be_judged_says_so(tiny: AbstractBackbone, tmp_path: Path) -> None:
    save_file({"model.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    save_file({"a": torch.full((1, 16), torch.nan)}, tmp_path / "nan.safetensors")
    save_file({"clip_l": torch.zeros(1, 16), "clip_g": torch.zeros(1, 24)}, tmp_path / "xl.safetensors")
    save_file({"a": torch.zeros(1, 5)}, tmp_path / "narrow.safetensors")
    save_file(
        {
            "lora_unet_nowhere.lora_down.weight": torch.zeros(1, 4),
            "lora_unet_nowhere.lora_up.weight": torch.zeros(4, 1),
        },
        tmp_path / "other.safetensors",
    )
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00")
    for name, error, message in (
        ("missing", ArtifactError, "does not exist"),
        ("model.safetensors", ArtifactError, "neither an embedding nor a LoRA"),
        ("nan.safetensors", ArtifactError, "not finite"),
        ("cut.safetensors", ArtifactError, "damaged"),
        ("xl.safetensors", UsageError, "for a sdxl base"),
        ("narrow.safetensors", ArtifactError, "another base"),
        ("other.safetensors", ArtifactError, "1 of 1 changed layers are not in"),
    ):
        with pytest.raises(error, match=message):
            audit(tmp_path / name, base=tiny, method=QUICK)


def test_opaque_layers_are_named_as_unseen(tiny: AbstractBackbone, tmp_path: Path) -> None:
    path = export_kohya(artifact(tiny, LowRankConfig(method="dora", rank=2), RARE), tmp_path / "dora")
    contents = read_contents_or_error(path)
    assert "neither" in contents  # all of its layers are rescaled by magnitudes: nothing here may pretend to apply them


def read_contents_or_error(path: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        read_contents(path)
    return str(caught.value)


def test_replaced_rows_of_the_token_table_are_named(
    toybox: AbstractBackbone, reference: Reference, tmp_path: Path
) -> None:
    config = FullConfig(components=("text_encoder",), include=("token_embedding",))
    adapter = build_adapter("table", config)
    tokenizer = toybox.tokenizers[0]
    snow, wooden = (tokenizer(word).input_ids[1] for word in ("snow", "wooden"))
    with injected(toybox, adapter):
        state = adapter.state_dict()
    key = next(iter(state))
    state[key][[snow, wooden]] += 0.1
    concept = Concept(class_noun="wooden house", mode="plain")
    data = dataclasses.replace(artifact(toybox, config, concept), tensors={"change": state})
    data.save(tmp_path / "rows")
    report = audit(tmp_path / "rows", base=toybox, method=QUICK, reference=reference)
    assert {word for word, _ in report.changed_words} == {"snow", "wooden"}
    (reason,) = [reason for reason in report.reasons if "token table" in reason]
    assert "snow" in reason
    assert "wooden" not in reason, "the file names that word itself"


def test_rows_are_named_in_every_spelling_and_form(toybox: AbstractBackbone, tmp_path: Path) -> None:
    table, tokenizer = token_table(toybox.text_encoders[0]), toybox.tokenizers[0]
    tree, car = (tokenizer(word).input_ids[1] for word in ("tree", "car"))
    replaced, only = table.clone(), torch.zeros(len(table), 1)
    replaced[tree], only[tree] = table[car], 1.0
    change = float((table[car] - table[tree]).norm() / table[tree].norm())
    row = (table[car] - table[tree])[None].clone()
    kohya, plain = "lora_te_text_model_embeddings_token_embedding", "text_encoder.embeddings.token_embedding"
    forms = {
        "weight": {"text_encoder.text_model.embeddings.token_embedding.weight": replaced},
        "without a level": {f"{plain}.weight": replaced},
        "underscores": {f"{kohya}.weight": replaced},
        "low rank": {f"{kohya}.lora_up.weight": only, f"{kohya}.lora_down.weight": row},
        "difference": {f"{kohya}.diff": only @ row},
        "halves": {f"{kohya}.diff": only @ row / 2, f"{plain}.diff": only @ row / 2},
    }
    for name, tensors in forms.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
        contents = read_contents(tmp_path / f"{name}.safetensors")
        assert changed_words(contents, toybox) == [("tree", pytest.approx(change, abs=0.01))], name


def test_a_false_claim_is_told_from_a_true_one(toybox: AbstractBackbone, reference: Reference, tmp_path: Path) -> None:
    """The vector is the base's own word for a dog: what it paints is known without training."""
    table = token_table(toybox.text_encoders[0])
    row = table[toybox.tokenizers[0]("dog").input_ids[1]][None].clone()
    save_file({"<rex>": row}, tmp_path / "rex.safetensors")
    true, false, silent = (
        audit(tmp_path / "rex.safetensors", base=toybox, noun=noun, method=QUICK, reference=reference)
        for noun in ("dog", "car", "")
    )
    assert (true.verdict, false.verdict, silent.verdict) == ("nothing found", "suspicious", "nothing found")
    assert "said to be car" in false.reasons[0]
    assert true.behaviour is not None
    assert true.behaviour.looks_like[0][0] == "dog"
    assert true.behaviour.ordinary_shift is None, "vectors cannot change prompts without the subject"
    assert "could not be checked" in silent.remarks[0]
    assert true.tokens["<rex>"][0]["nearest"][0][0] == "dog"
    assert json.dumps(to_jsonable(false))


def test_a_token_in_the_place_of_an_ordinary_word_is_an_alarm(
    toybox: AbstractBackbone, reference: Reference, tmp_path: Path
) -> None:
    row = token_table(toybox.text_encoders[0])[:1].clone()
    save_file({"car": row}, tmp_path / "car.safetensors")
    report = audit(tmp_path / "car.safetensors", base=toybox, method=QUICK, reference=reference)
    assert '"car" is an ordinary word' in report.reasons[0]


@pytest.mark.parametrize(
    ("stem", "key", "phrase", "reason"),
    [
        ("dog", "emb_params", "<my-toy>", '"dog" is an ordinary word'),
        ("dog", "<my-toy>", "", '"dog" is an ordinary word'),
        ("toy-1", "<my-toy>", "dog", '"dog" is an ordinary word'),
        ("a red car", "emb_params", "", '"a red car" are ordinary words'),
        ("toy-1", "<my-toy>", "", ""),
    ],
)
def test_a_file_cannot_hide_the_words_it_is_called_by(
    stem: str, key: str, phrase: str, reason: str, toybox: AbstractBackbone, tmp_path: Path
) -> None:
    row = token_table(toybox.text_encoders[0])[:1].clone()
    file = tmp_path / f"{stem}.safetensors"
    save_file({key: row}, file, metadata={"modelspec.trigger_phrase": phrase})
    reasons = taken_words(read_contents(file), toybox)
    assert [reason] == [text[: len(reason)] for text in reasons] if reason else not reasons


def test_a_word_must_stand_out_and_repeat_itself() -> None:
    score = WordScore(word="night", jump=1.2, deviations=9.0, shows="car")
    assert stands_out(score, QUICK)
    assert not stands_out(dataclasses.replace(score, deviations=2.0), QUICK)
    assert not stands_out(dataclasses.replace(score, jump=0.5), QUICK)
    assert not switches(score, 0.2)
    again = dataclasses.replace(score, repeated=2 / 3, concentration=0.8)
    assert switches(again, 0.2)
    assert not switches(again, 0.75), "the pictures were as much alike without it"
    assert not switches(dataclasses.replace(again, repeated=1 / 3), 0.2)


def test_a_claim_fails_where_another_noun_explains_most_pictures_better_than_is_usual() -> None:
    errs = torch.tensor([[2.0, 2.0, 2.0, 2.0], [1.2, 1.2, 1.2, 1.0], [1.5, 1.5, 1.5, 1.5], [1.0, 1.0, 1.0, 1.1]])
    found = explanation(errs, 2, ("mug", "car"))
    assert (found.shows, found.agreeing) == ("car", 0.75)
    assert found.advantage == pytest.approx(0.125), "of the mean of the lower errors, 1"
    assert explanation(errs[[3, 2, 1]], 1, ("mug", "dog")).advantage < 0
    honest = dataclasses.replace(found, advantage=-0.1)
    told = Behaviour(nouns=("car", "mug"), subject="x", claim="dog", painted=found, base_painted=honest)
    assert is_another(told, QUICK)
    confused = dataclasses.replace(found, advantage=0.1)
    assert not is_another(dataclasses.replace(told, base_painted=confused), QUICK), "the base confuses them itself"
    assert not is_another(dataclasses.replace(told, painted=dataclasses.replace(found, agreeing=0.5)), QUICK)
    assert not is_another(dataclasses.replace(told, painted=honest), QUICK)
    assert not is_another(dataclasses.replace(told, painted=None), QUICK)
    slight = dataclasses.replace(found, advantage=0.03)
    assert is_another(dataclasses.replace(told, painted=slight), QUICK), "the base tells its own from that noun well"
    assert not is_another(dataclasses.replace(told, painted=slight, base_painted=slight), QUICK)
    best = dataclasses.replace(told, painted=dataclasses.replace(found, advantage=-0.01))
    assert not is_another(best, QUICK), "the claim explains them best, if less than the base's own"
    assert best.surprise == 0
    with pytest.raises(ConfigError, match="picture_levels in"):
        dataclasses.replace(QUICK, picture_levels=(0.5, 1.0))


def test_damage_is_an_alarm_only_where_nouns_become_one_third_thing() -> None:
    def found(*pairs: tuple[str, str], like: str = "car") -> Behaviour:
        lost = tuple(LostNoun(noun=noun, shows=shows, cosine=0.0) for noun, shows in pairs)
        nouns = ("car", "cat", "dog", "house", "mug")
        return Behaviour(nouns=nouns, subject="sks dog", looks_like=((like, 0.7),), claim="dog", lost=lost)

    assert taken_over(found(("house", "car"), ("mug", "car"))) == "car"
    assert taken_over(found(("house", "car"), ("mug", "car"), ("cat", "house"))) == "car"
    assert not taken_over(found(("house", "car"), ("mug", "car"), like="dog")), "its own subject is what it says"
    assert not taken_over(found(("house", "mug"))), "one noun"
    assert not taken_over(found(("house", "dog"), ("mug", "dog"), ("cat", "dog"))), "overfitted to its own subject"
    assert not taken_over(found(("house", "car"), ("mug", "cat"))), "each another way"
    assert not taken_over(found())
    reasons, remarks = judge_behaviour(found(("house", "mug")), QUICK)
    assert not reasons
    assert "1 of 5 ordinary nouns are damaged" in remarks[-1]
    assert "all the same car" in judge_behaviour(found(("house", "car"), ("mug", "car")), QUICK)[0][0]


def test_the_command_says_what_it_did_not_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"<rex>": torch.zeros(1, 192)}, tmp_path / "rex.safetensors")
    main(["audit", str(tmp_path / "rex.safetensors")])
    shown = capsys.readouterr().out
    assert shown.startswith("only read: ")
    assert "give --base" in shown
    with pytest.raises(SystemExit) as caught:
        main(["audit", str(tmp_path / "none")])
    assert caught.value.code == 3


def test_the_survey_counts_the_attack_through_the_auditor() -> None:
    (row,) = [system for system in catalogue() if system.id == "huang-backdoor"]
    assert row.recipes == ("audit",)
    assert row.status in ("runs", "measured")
    assert RECIPES["audit"].build("sd").words > RECIPES["audit"].build("toybox").words


def test_stand_ins_are_no_words_of_anyone(toybox: AbstractBackbone) -> None:
    assert len(toybox.tokenizers[0].tokenize(stand_in(0))) > 1
