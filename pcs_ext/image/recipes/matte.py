"""MATTE (Agarwal et al. 2023, arXiv 2311.11919): colour, style, layout and object of one picture as four words."""

from pcs_ext.image.adapters import Attribute, AttributesConfig, EmbeddingConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.terms import AnchorConfig, ApartConfig

_TOKEN = "<subject>"


def matte(noun: str, preset: Preset) -> Recipe:
    """Four words of one picture, each read only at its noise levels and in its layers.

    The paper finds that colour and style are captured in the same layers, layout and colour at the same timesteps, and
    learns four words with losses that keep them apart. The exact ranges are not known here. Ours: colour and layout act
    in the noisier half, object and style in all but the noisiest third; colour and style in the fine and middle layers,
    layout and object in the coarse and middle ones. Colour and style are held apart, the object's row to its class
    word's. Rates, steps and weights are ours. `toybox`: not measured yet.

    `{subject}` is all four; a prompt may write `<color>`, `<style>`, `<layout>` or `<object>` alone.
    """
    small = preset == "toybox"
    word = noun.split()[-1]
    starts = {"color": "color", "style": "style", "layout": "random", "object": word}
    return Recipe(
        id="matte",
        concept=Concept(
            class_noun=noun,
            mode="learned",
            token=_TOKEN,
            with_noun=False,
            initializer=word,
            templates=("a photo of {subject}",),
            aspects=tuple(f"<{name}>" for name in starts),
        ),
        adapters={
            **{
                name: EmbeddingConfig(placeholder=f"<{name}>", initializer=start, init_seed=index)
                for index, (name, start) in enumerate(starts.items())
            },
            "ranges": AttributesConfig(
                placeholder=_TOKEN,
                attributes=(
                    Attribute(word="<color>", noise=(0.5, 1.0), layers=("fine", "middle")),
                    Attribute(word="<style>", noise=(0.0, 0.67), layers=("fine", "middle")),
                    Attribute(word="<layout>", noise=(0.5, 1.0), layers=("middle", "coarse")),
                    Attribute(word="<object>", otherwise=noun, noise=(0.0, 0.67), layers=("middle", "coarse")),
                ),
            ),
        },
        phases=(
            Phase(
                name="words",
                learning_rates={f"{name}/embedding": 1e-2 if small else 5e-3 for name in starts},
                batch_size=4,
                objective=ObjectiveConfig(
                    terms=(
                        ApartConfig(pairs=(("color", "style"),)),
                        AnchorConfig(words=(word,), adapters=("object",), weight=1e-3),
                    )
                ),
                fit=FitConfig(steps=400 if small else 1000),
            ),
        ),
        augmentation=Augmentation(flip=False),
        sampling=SAMPLING[preset],
    )
