"""Stellar's scores of pictures of people (Achlioptas et al. 2023, arXiv 2312.06116), as its released metrics have them.

Identity preservation (IPS), stability of identity (SIS), attribute preservation (APS) and accuracy of grounded objects
(GOA). Who finds and tells faces, who reads attributes and who detects objects is passed in: the networks of the paper
are licensed, or large. The suite's own image encoders stand for a face network as long as nobody passes one.

Left out: relation fidelity (RFS), which needs a scene graph and whose code was never released, and the paper's penalty
for pictures that repeat their input, whose formula is not known here; `check_copying` looks for those.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.evaluate.encoders import ImageEncoder
from pcs_ext.image.evaluate.protocol import AttributeReader

FaceReader = Callable[[Tensor], Sequence[Tensor]]
"""Pictures `b 3 h w` in [-1, 1] -> for each the unit vectors of its faces, `f d`; `0 d` where none was found."""
ObjectDetector = Callable[[Tensor, Sequence[str]], Tensor]
"""A picture `3 h w` in [-1, 1] and `n` names -> how surely each is in it, `n` in [0, 1]: its best box's score."""
PERSONS = (
    "clown", "businessman", "doctor", "nurse", "cop", "policeman", "firefighter", "fireman", "soldier", "captain",
    "admiral", "scientist", "knight", "DJ", "egyptian pharaoh", "king", "emperor", "astronaut", "cowboy", "wizard",
    "pilot", "Pope", "President", "sumo fighter",
)  # fmt: skip
"""What a prompt may make of the person, which a detector shall not look for (the released metrics' list)."""


def whole_pictures(encoder: ImageEncoder) -> FaceReader:
    """Every picture taken for one face: what the suite's encoders can do without a face network."""

    def read(pictures: Tensor) -> list[Tensor]:
        return list(encoder.encode_images(pictures).split(1))

    return read


def identity_preservation(pictures: Tensor, photos: Tensor, faces: FaceReader) -> Tensor:
    """IPS, `b` in [-1, 1]: the largest cosine of a face in a picture and one in its photo; 0 where either has none.

    Args:
        pictures: generated, `b 3 h w` in [-1, 1].
        photos: of each the one that was shown, `b 3 h w`.
        faces: finds and tells them.
    """
    _same(len(pictures), len(photos), "photos")
    return torch.stack(
        [
            (made @ shown.T).max() if len(made) and len(shown) else made.new_zeros(())
            for made, shown in zip(faces(pictures), faces(photos), strict=True)
        ]
    )


def identity_stability(pictures: Tensor, others: Sequence[Tensor], faces: FaceReader) -> Tensor:
    """SIS, `b` in [-1, 1]: the least identity preservation over other photos of the same person.

    Args:
        pictures: generated, `b 3 h w` in [-1, 1].
        others: of each, photos of that person which were not shown, `k 3 h w`, one or more.
        faces: finds and tells them.
    """
    _same(len(pictures), len(others), "sets of other photos")
    scores = []
    for picture, own in zip(pictures, others, strict=True):
        if not len(own):
            raise UsageError("stability of identity needs one other photo of every person or more, got none.")
        scores.append(identity_preservation(picture.expand(len(own), -1, -1, -1), own, faces).min())
    return torch.stack(scores)


def attribute_preservation(
    pictures: Tensor, own: Sequence[Mapping[str, str]], reader: AttributeReader
) -> tuple[Tensor, dict[str, float]]:
    """APS: of every picture the share of its person's attributes that are read off it, `b`; and the share by attribute.

    Args:
        pictures: generated, `b 3 h w` in [-1, 1].
        own: of each person what is known: "male" -> "yes"; in the reader's words, one attribute or more.
        reader: an `AttributeReader`, `FaceProbes` for one; what it does not read is wrong.
    """
    _same(len(pictures), len(own), "sets of attributes")
    if not all(own):
        raise UsageError("attribute preservation needs one attribute of every person or more, got none.")
    read, kinds = reader(pictures), sorted({kind for known in own for kind in known})
    hits = [
        {kind: found.get(kind) == value for kind, value in known.items()}
        for found, known in zip(read, own, strict=True)
    ]
    shares = torch.tensor([sum(hit.values()) / len(hit) for hit in hits])
    asked = {kind: [hit[kind] for hit in hits if kind in hit] for kind in kinds}
    return shares, {kind: sum(values) / len(values) for kind, values in asked.items()}


class FaceProbes:
    """An `AttributeReader` of faces: one logistic regression for each attribute, fitted on photos where it is known.

    Regularised as the released metrics' (scikit-learn's defaults): half the squared weights plus the sum of the errors,
    the offset left out. An attribute that all photos share is not read.

    Args:
        photos: `n 3 h w` in [-1, 1].
        known: of each whether the person has an attribute: "male" -> True; all of the same attributes.
        faces: finds and tells them; of several in a picture the first is looked at.

    Raises:
        UsageError: no photo has a face, or attributes differ between photos.
    """

    def __init__(self, photos: Tensor, known: Sequence[Mapping[str, bool]], faces: FaceReader) -> None:
        _same(len(photos), len(known), "sets of attributes")
        kinds = sorted(known[0]) if known else []
        if any(sorted(own) != kinds for own in known):
            raise UsageError("probes need the same attributes of every photo.")
        seen = [(found[0], own) for found, own in zip(faces(photos), known, strict=True) if len(found)]
        if not seen:
            raise UsageError("probes need photos with a face, and none was found.")
        vectors = torch.stack([vector for vector, _ in seen]).double().cpu()
        self.faces, self.probes = faces, dict[str, Tensor]()
        for kind in kinds:
            labels = torch.tensor([own[kind] for _, own in seen], dtype=torch.float64)
            if 0 < float(labels.mean()) < 1:
                self.probes[kind] = fitted(vectors, labels)

    @property
    def id(self) -> str:
        """What a figure names."""
        return f"probes of {', '.join(self.probes)}"

    def __call__(self, images: Tensor) -> list[dict[str, str]]:
        """Images `b 3 h w` -> per image attribute -> "yes" or "no"; nothing where it has no face."""
        return [self._read(found) for found in self.faces(images)]

    def _read(self, found: Tensor) -> dict[str, str]:
        if not len(found):
            return {}
        vector = F.pad(found[0].double().cpu(), (0, 1), value=1.0)
        return {kind: "yes" if float(vector @ probe) > 0 else "no" for kind, probe in self.probes.items()}


@torch.enable_grad()
def fitted(vectors: Tensor, labels: Tensor) -> Tensor:
    """The weights and, last, the offset of a logistic regression, `d + 1` float64.

    The least of w.w / 2 + the sum of -log of the probability of every label.

    Args:
        vectors: `n d` float64.
        labels: `n`, 0 or 1.
    """
    weights = torch.zeros(vectors.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    inputs = F.pad(vectors, (0, 1), value=1.0)
    optimiser = torch.optim.LBFGS([weights], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def error() -> Tensor:
        optimiser.zero_grad()
        scores = inputs @ weights
        total = weights[:-1].square().sum() / 2
        total = total + F.binary_cross_entropy_with_logits(scores, labels, reduction="sum")
        total.backward()
        return total

    optimiser.step(error)  # pyright: ignore[reportArgumentType]
    return weights.detach()


def object_accuracy(pictures: Tensor, objects: Sequence[Sequence[str]], detector: ObjectDetector) -> list[float | None]:
    """GOA of every picture, in [0, 1]: the mean over what its prompt asks for of how surely a detector finds it.

    Args:
        pictures: generated, `b 3 h w` in [-1, 1].
        objects: of each what its prompt names; `PERSONS` among them are passed over.
        detector: finds them.

    Returns:
        None for pictures of which nothing is asked.
    """
    _same(len(pictures), len(objects), "lists of objects")
    scores: list[float | None] = []
    for picture, named in zip(pictures, objects, strict=True):
        wanted = [name for name in named if name not in PERSONS]
        found = detector(picture, wanted) if wanted else None
        if found is not None and found.shape != (len(wanted),):
            raise UsageError(
                f"the object detector gave {tuple(found.shape)} for {len(wanted)} names; expected one score for each."
            )
        scores.append(None if found is None else float(found.mean()))
    return scores


def _same(pictures: int, given: int, what: str) -> None:
    if pictures != given or not pictures:
        raise UsageError(f"there are {pictures} pictures and {given} {what}; expected as many of both, at least one.")
