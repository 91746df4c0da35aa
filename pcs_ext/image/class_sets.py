"""Which class images a recipe needs, shared out over its prompts."""

import dataclasses

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.class_images import ClassImages
from pcs_ext.image.concept import SUBJECT
from pcs_ext.image.recipes.base import Recipe
from pcs_ext.reporter import Reporter


def class_images_of(recipe: Recipe, backbone: AbstractBackbone, seed: int, reporter: Reporter) -> ClassImages | None:
    """What a recipe wants beside the photos, no more of it than its steps will see; None: nothing."""
    if recipe.class_images == 0:
        return None
    needed = sum(
        p.fit.steps * p.fit.gradient_accumulation * p.batch_size
        for p in recipe.phases
        if p.objective.prior_loss_weight > 0
    )
    # They stand in batches with photos, whatever size the subject's own pictures are to have.
    side, aspect = backbone.resolution, recipe.augmentation.aspect
    size = {"height": None, "width": None} if aspect == 1 else {"height": side, "width": side * aspect}
    sampling = dataclasses.replace(recipe.sampling, **size)
    templates = recipe.class_templates or (recipe.class_template,)
    sets = [
        ClassImages.generate(
            backbone,
            prompt=recipe.concept.class_prompt(template) if SUBJECT in template else template,
            count=count,
            config=sampling,
            seed=seed,
            reporter=reporter,
        )
        for template, count in zip(templates, shares(min(recipe.class_images, needed), len(templates)), strict=True)
        if count > 0
    ]
    joined = ClassImages.joined(sets)
    return joined.captioned(recipe.class_caption) if recipe.class_caption else joined


def shares(total: int, parts: int) -> list[int]:
    """`total` in `parts` whole numbers that differ by one at most, the larger ones first."""
    return [total // parts + (index < total % parts) for index in range(parts)]
