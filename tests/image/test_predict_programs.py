"""Programs on predictions: they nest, leave in any order, and leave no trace."""

import torch

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.predict_programs import Predict, add_prediction, remove_prediction
from pcs_ext.image.types import Conditioning


def doubled(
    predict: Predict, noisy_latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
) -> torch.Tensor:
    return 2 * predict(noisy_latents, timesteps, conditioning)


def raised(
    predict: Predict, noisy_latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
) -> torch.Tensor:
    return 1 + predict(noisy_latents, timesteps, conditioning)


@torch.no_grad()
def test_they_nest_and_leave_in_any_order(sd: AbstractBackbone) -> None:
    told = sd.encode_prompt(["a dog"])
    question = torch.ones(1, 4, 8, 8), torch.tensor([300]), told
    plain = sd.predict(*question)
    add_prediction(sd, "doubled", doubled)
    add_prediction(sd, "raised", raised)
    torch.testing.assert_close(sd.predict(*question), 1 + 2 * plain)
    remove_prediction(sd, "doubled")
    torch.testing.assert_close(sd.predict(*question), 1 + plain)
    remove_prediction(sd, "raised")
    assert "predict" not in vars(sd)

    def shadow(*_: object) -> torch.Tensor:
        return torch.zeros(1)

    vars(sd)["predict"] = shadow
    add_prediction(sd, "raised", raised)
    assert sd.predict(*question) == 1
    remove_prediction(sd, "raised")
    assert vars(sd).pop("predict") is shadow
    assert torch.equal(sd.predict(*question), plain)
