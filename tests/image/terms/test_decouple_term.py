"""The subject alone: what of the photo counts, under which caption."""

import dataclasses

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import EmbeddingConfig, build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.terms import DecoupleConfig, Step, build_term
from pcs_ext.image.types import Batch
from tests.image.terms.test_context_term import step_of


def test_against_a_pass_of_its_own(sd: AbstractBackbone) -> None:
    word = build_adapter("word", EmbeddingConfig(placeholder="<r>", initializer="dog"))
    term = build_term(DecoupleConfig(around=(" in snow",), of_subject=(" of red",), weight=0.5))
    masks = torch.zeros(2, 1, 32, 32)
    masks[:, :, :16] = 1
    with injected(sd, word), torch.no_grad():
        bare = step_of(sd, {"word": word})
        assert term(bare) == 0, "photos without masks"
        batch = Batch(images=bare.batch.images, captions=("a <r> of red in snow",) * 2, masks=masks)
        step = dataclasses.replace(bare, batch=batch)
        asked = step.asked()

        def expected(captions: list[str], rows: slice = slice(None)) -> torch.Tensor:
            prediction = sd.predict(asked.latents[rows], asked.timesteps[rows], sd.encode_prompt(captions)[rows])
            return 0.5 * (prediction - asked.target[rows])[:, :, :4].square().mean()

        seen = {round(float(term(step)), 6) for _ in range(12)}
        choices = [[a, b] for a in ("a <r>", "a <r> of red") for b in ("a <r>", "a <r> of red")]
        assert seen <= {round(float(expected(captions)), 6) for captions in choices}
        assert len(seen) > 1, "the pose's words stay half of the time"

        def below(value: float) -> Step:
            target = asked.target.clone()
            target[:, :, 4:] = value
            return dataclasses.replace(
                step, noised=dataclasses.replace(asked, target=target), generator=torch.Generator().manual_seed(1)
            )

        assert term(below(5.0)) == term(below(0.0)), "what is around the subject does not count"
        prior = dataclasses.replace(batch, is_prior=torch.tensor([False, True]))
        alone = build_term(DecoupleConfig(around=(" in snow", " of red"), weight=0.5))
        one = alone(dataclasses.replace(step, batch=prior))
        torch.testing.assert_close(one, expected(["a <r>"] * 2, slice(0, 1)))
    with pytest.raises(ConfigError, match="none of them empty"):
        DecoupleConfig(around=())
