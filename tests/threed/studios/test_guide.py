"""A base, a subject or a LoRA file behind one guide, and the doors that stay shut until someone knocks."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_ext.artifact import ArtifactData
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.export import diffusers_lora
from pcs_ext.threed.studios.guide import Guide, Source

ROOT = Path(__file__).parents[3]


def prediction(guide: Guide) -> torch.Tensor:
    noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return guide.backbone.predict(noisy, torch.tensor([400]), guide.encode(["a photo of a sks dog"]))


def test_a_lora_file_is_the_subject_it_was_exported_from(subject: Path, tiny_sd_path: Path, tmp_path: Path) -> None:
    file = diffusers_lora.export_diffusers_lora(ArtifactData.load(subject), tmp_path / "out.safetensors")
    here: dict[str, Any] = {"base": str(tiny_sd_path), "device": "cpu", "precision": "fp32"}
    plain = Guide(Source(**here))
    learned = Guide(Source(**here, subject=str(subject)))
    loaded = Guide(Source(**here, lora=str(file)))
    assert torch.allclose(prediction(loaded), prediction(learned), atol=1e-4)
    assert not torch.allclose(prediction(plain), prediction(learned), atol=1e-2)
    assert not any(parameter.requires_grad for parameter in loaded.backbone.denoiser.parameters())
    learned.close()
    assert torch.equal(prediction(plain), prediction(learned))


def test_words_need_a_subject(subject: Path, tiny_sd_path: Path) -> None:
    assert Guide(Source(subject=str(subject), device="cpu")).words("a {subject}") == "a sks dog"
    plain = Guide(Source(base=str(tiny_sd_path), device="cpu"))
    assert plain.words("a dog") == "a dog"
    with pytest.raises(UsageError, match="names a subject"):
        plain.words("a {subject}")


def test_sources_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ConfigError, match="no model"):
        Source()
    with pytest.raises(ConfigError, match="got both"):
        Source(base="toybox", subject="a", lora="b.safetensors")
    with pytest.raises(ConfigError, match="existing .safetensors"):
        Source(base="toybox", lora="nowhere.safetensors")


def test_nothing_of_the_suite_opens_these_doors() -> None:
    code = (
        "import sys, pkgutil, pcs_ext.cli, pcs_ext.threed, pcs_ext.threed.distillation, pcs_ext.threed.field_fit\n"
        "pcs_ext.cli.commands()\n"
        "bad = [n for n in sys.modules if n.startswith(('nerfstudio', 'threestudio', 'pcs_ext.threed.studios'))]\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
