"""Kurtosis concentration: of the picture the prediction implies, against bands measured one by one."""

import dataclasses

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.terms import KurtosisConfig, build_term
from pcs_ext.image.terms.kurtosis import concentration
from pcs_ext.image.wavelets import detail_bands, kurtosis
from tests.image.terms.test_context_term import step_of


def test_against_bands_one_by_one(sd: AbstractBackbone) -> None:
    step = step_of(sd, {})
    asked = step.asked()
    wanted = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    signal, sigma = sd.schedule.coefficients(asked.timesteps, wanted)
    noise = (asked.latents - signal * wanted) / sigma
    prediction = sd.schedule.from_epsilon(noise, asked.latents, asked.timesteps).requires_grad_()
    term = build_term(KurtosisConfig(orders=(1, 2), levels=2, weight=0.5))
    found = term(dataclasses.replace(step, prediction=prediction))
    with torch.no_grad():
        gray = sd.decode_latents(wanted).mean(1)
        each = [[float(kurtosis(b)) for o in (1, 2) for b in detail_bands(row[None], o, 2)] for row in gray]
    assert len(each[0]) == 12
    expected = 0.5 * sum(max(row) - min(row) for row in each) / 2
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-3, atol=1e-4)
    found.backward()
    assert prediction.grad is not None
    assert prediction.grad.abs().sum() > 0


def test_noise_is_concentrated_and_a_line_is_not() -> None:
    noise = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(0))
    line = torch.zeros(1, 64, 64)
    line[0, 20] = 1
    assert concentration(noise, (1, 2, 3), 2) < 2
    assert concentration(line, (1, 2, 3), 2) > 10
    with pytest.raises(ConfigError, match="at least one wavelet"):
        KurtosisConfig(orders=())
