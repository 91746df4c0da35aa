"""`evaluate_artifact`: a learned subject against the plain class word, with the same prompts, seeds and judges."""

from collections.abc import Sequence
from pathlib import Path

from pcs_ext.config_io import to_jsonable
from pcs_ext.errors import Interrupted, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.evaluate.generation import make_images, paint_artifact, paint_base, paint_beside
from pcs_ext.image.evaluate.pictures import square_images
from pcs_ext.image.evaluate.prompts import Prompt
from pcs_ext.image.evaluate.protocol import Judges, Truth, evaluate_images
from pcs_ext.image.evaluate.report import Report
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import Reporter, SilentReporter

CLASS_WORD = "class-word"
"""Name of the baseline: the base itself, asked for the class noun."""


def evaluate_artifact(
    artifact: Artifact,
    photos: Sequence[Path],
    output: Path,
    *,
    name: str,
    subject: str = "",
    prompts: Sequence[Prompt],
    unrelated: Sequence[str],
    seeds: Sequence[int],
    judges: Judges,
    backbone: AbstractBackbone,
    truth: Truth | None = None,
    reporter: Reporter | None = None,
) -> tuple[Report, Report]:
    """Generate, measure and write reports; images that are there from an interrupted run are used.

    Args:
        artifact: the learned subject.
        photos: those it was learned from, or others of it.
        output: folder for `images/`, `unrelated/` and `reports/`, in each one entry by `name` and one `class-word`;
            several artifacts of the same class noun may share it, and with it the class word's images.
        name: of the artifact in that folder.
        subject: what the artifact shows, for the reports; empty: the same as `name`.
        prompts: what to ask for.
        unrelated: prompts that do not name the subject, for drift; empty measures none.
        seeds: one image of each prompt per seed.
        judges: encoders and readers.
        backbone: the base to generate with.
        truth: what is known about the subject beyond its photos.
        reporter: hears progress.

    Returns:
        The subject's report and the class word's.

    Raises:
        UsageError: no prompt, no seed or no photo, a seed twice, or the baseline's name for the artifact.
        Interrupted: Ctrl-C; images made so far are kept.
    """
    _check(photos, prompts, seeds, name)
    reporter, noun = reporter or SilentReporter(), artifact.concept.class_noun
    texts = [prompt.text for prompt in prompts]
    facts = {"base": backbone.fingerprint, "sampling": to_jsonable(artifact.sampling)}
    learned_facts = {**facts, "artifact": artifact.data.content_hash}
    plain = paint_base(backbone, artifact.sampling, noun)
    jobs = {
        ("images", name): (texts, paint_artifact(artifact, backbone), learned_facts),
        ("images", CLASS_WORD): (texts, plain, {**facts, "noun": noun}),
        ("unrelated", name): (unrelated, paint_beside(artifact, backbone), learned_facts),
        ("unrelated", CLASS_WORD): (unrelated, plain, facts),
    }
    try:
        made = {
            key: make_images(output / key[0] / key[1], asked, seeds, paint, facts=known, task=key[1], reporter=reporter)
            for key, (asked, paint, known) in jobs.items()
            if asked
        }
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; the images made so far are in {output}. Run the same command again.") from None
    tensors = {key: square_images(images.paths, backbone.resolution) for key, images in made.items()}
    drift = (tensors["unrelated", CLASS_WORD], tensors["unrelated", name]) if unrelated else None
    references = square_images(photos, backbone.resolution)
    settings = {"noun": noun, "prompts": prompts, "seeds": seeds, "judges": judges, "truth": truth}
    settings["subject"] = subject or name
    reporter.event("measure", "measuring")
    recipe = str(artifact.data.recipe["id"])
    report = evaluate_images(tensors["images", name], references, recipe=recipe, drift=drift, **settings)
    baseline = evaluate_images(tensors["images", CLASS_WORD], references, recipe=CLASS_WORD, **settings)
    report.save(output / "reports" / f"{name}.json")
    baseline.save(output / "reports" / f"{CLASS_WORD}.json")
    return report, baseline


def _check(photos: Sequence[Path], prompts: Sequence[Prompt], seeds: Sequence[int], name: str) -> None:
    if not photos or not prompts or not seeds:
        raise UsageError("evaluate needs at least one photo, one prompt and one seed.")
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"seeds must be all different, got {' '.join(map(str, seeds))}: equal ones give equal images.")
    if name == CLASS_WORD:
        raise UsageError(
            f"a subject called {CLASS_WORD} cannot be told from the baseline, which has that name; rename its folder."
        )
