"""A learned subject of any kind on the tiny backbones of the adapter tests."""

import itertools

import pytest
import torch

from pcs_ext.artifact import ArtifactData
from pcs_ext.config_io import to_jsonable
from pcs_ext.image.adapters import build_adapter, injected
from tests.image.adapters.tiny_backbone import fresh, run_denoiser, snapshot_of


@pytest.fixture(params=["sd", "sdxl"])
def backbone(request):
    return fresh(request.param)


@pytest.fixture
def sd():
    return fresh("sd")


@pytest.fixture
def run():
    return run_denoiser


@pytest.fixture
def snapshot():
    return snapshot_of


@pytest.fixture
def sdxl():
    return fresh("sdxl")


def artifact_of(backbone, configs, states, **changes):
    fields = {
        "recipe": {
            "id": "dreambooth-lora",
            "class_images": 20,
            "phases": [
                {
                    "learning_rates": {"layers": 1e-4, "layers/text_encoder": 5e-6},
                    "objective": {"prior_loss_weight": 1.0},
                    "fit": {"steps": 300, "lr_schedule": "cosine"},
                }
            ],
        },
        "concept": {"class_noun": "dog", "mode": "rare", "token": "sks"},
        "adapters": {name: to_jsonable(config) for name, config in configs.items()},
        "tensors": states,
        "base_name": "/home/someone/models/tiny",
        "base_fingerprint": "0" * 16,
        "base_family": backbone.family,
        "training": {"seed": 7, "steps": 300, "photos": {"alice_at_home.jpg": "ab"}, "resolution": 512},
    }
    return ArtifactData(**{**fields, **changes})


@pytest.fixture
def learn():
    """(backbone, name -> config) -> the artifact of adapters whose parameters moved as in training."""

    def call(backbone, size=0.1, fields=None, **configs):
        generator = torch.Generator().manual_seed(11)
        states = {}
        for name, config in configs.items():
            adapter = build_adapter(name, config)
            with injected(backbone, adapter), torch.no_grad():
                for parameter in itertools.chain(*adapter.parameters().values()):
                    parameter += size * torch.randn(parameter.shape, generator=generator)
            states[name] = adapter.state_dict()
        return artifact_of(backbone, configs, states, **(fields or {}))

    return call


@pytest.fixture
def applied():
    """The artifact's adapters put into a backbone."""

    def call(backbone, data):
        from pcs_ext.image.export.modules import adapter_configs

        adapters = []
        for name, config in adapter_configs(data).items():
            adapter = build_adapter(name, config)
            adapter.load_state_dict(data.tensors_of(name))
            adapters.append(adapter)
        return injected(backbone, *adapters)

    return call
