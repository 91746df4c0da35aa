"""What adapters with networks in the denoiser's passes share: what does not fit is refused and forgotten nowhere."""

from pathlib import Path

import pytest
import torch

from pcs_ext.errors import ArtifactError
from pcs_ext.image.adapters import FeatureFieldAdapter, FeatureFieldConfig, ReferenceAdapter, ReferenceConfig
from tests.support.tiny import tiny_backbone


@pytest.mark.parametrize("kind", ["reference", "field"])
def test_what_does_not_fit_is_refused_before_and_after_injecting(kind: str, tmp_path: Path) -> None:
    backbone = tiny_backbone(tmp_path / "sd")

    def fresh() -> ReferenceAdapter | FeatureFieldAdapter:
        if kind == "reference":
            return ReferenceAdapter("one", ReferenceConfig())
        return FeatureFieldAdapter("one", FeatureFieldConfig(caption="a photo of <subject>", width=8))

    adapter = fresh()
    adapter.inject(backbone)
    state = {name: torch.randn_like(value) for name, value in adapter.state_dict().items()}
    wrong = {**state, "stranger": torch.ones(1)}
    with pytest.raises(ArtifactError, match="unexpected stranger"):
        adapter.load_state_dict(wrong)
    adapter.eject()
    assert "predict" not in vars(backbone)
    later = fresh()
    later.load_state_dict(wrong)
    with pytest.raises(ArtifactError, match="unexpected stranger"):
        later.inject(backbone)
    assert "predict" not in vars(backbone)
    assert later.state_dict().keys() == wrong.keys()  # as it was given, for another base
    later.load_state_dict(state)
    later.inject(backbone)
    assert all(torch.equal(value, state[name]) for name, value in later.state_dict().items())
    later.eject()
