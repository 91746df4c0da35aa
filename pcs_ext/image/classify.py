"""A classifier whose classes are learned words: pictures go to the word whose prompt CLIP finds nearest."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.contrast import PromptReader, photo_features
from pcs_ext.image.data import Photo
from pcs_ext.image.evaluate.encoders import ClipEncoder
from pcs_ext.image.subject import Artifact

TEMPLATES = ("a photo of {subject}",)


@dataclasses.dataclass(frozen=True)
class TokenClassifier:
    """Class vectors from prompts of learned words. Needs no training of its own.

    Whatever changes how prompts are read counts: words by any recipe, and text encoders that were trained. A subject
    whose text side did not change (a rare word, only the denoiser trained) is told apart by its rare word alone.
    """

    names: tuple[str, ...]
    vectors: Tensor
    """One unit vector per class, `k d`, float32 on the CPU."""
    clip: ClipEncoder
    scale: float = 100.0
    """Times the cosines before the softmax of `probabilities`; CLIP's own is near 100."""

    @staticmethod
    def of(
        subjects: Mapping[str, Artifact],
        backbone: AbstractBackbone,
        clip: ClipEncoder,
        *,
        templates: Sequence[str] = TEMPLATES,
    ) -> "TokenClassifier":
        """One class per subject; each is read with itself alone in the base.

        Args:
            subjects: by class name.
            backbone: of their family.
            clip: whose text tower the base's first text encoder is.
            templates: prompts with `{subject}`; their vectors are averaged.

        Raises:
            UsageError: fewer than two classes.
            ModelError: the CLIP does not belong to the base.
        """
        if len(subjects) < 2:
            raise UsageError(f"a classifier needs at least two classes, got {', '.join(subjects) or 'none'}.")
        reader, vectors = PromptReader(backbone, clip), []
        for artifact in subjects.values():
            with artifact.applied(backbone), torch.no_grad():
                read = reader([artifact.concept.prompt(template) for template in templates])
            vectors.append(F.normalize(read.mean(0), dim=0).cpu())
        return TokenClassifier(tuple(subjects), torch.stack(vectors), clip)

    def probabilities(self, photos: Sequence[Photo]) -> Tensor:
        """`n k`, each row summing to 1: mean over a photo and its mirror image, which no class word tells apart."""
        features = photo_features(self.clip, photos).unflatten(0, (len(photos), 2))
        return (self.scale * features @ self.vectors.T).softmax(-1).mean(1)

    def __call__(self, photos: Sequence[Photo]) -> list[str]:
        """The class of every photo."""
        return [self.names[index] for index in self.probabilities(photos).argmax(1).tolist()]

    def confusion(self, photos: Mapping[str, Sequence[Photo]]) -> Tensor:
        """How many photos of each class (rows) were taken for each class (columns), `k k` int64.

        Raises:
            UsageError: a class that is not known here.
        """
        unknown = sorted(set(photos) - set(self.names))
        if unknown:
            raise UsageError(f"{', '.join(unknown)} is no class here; expected some of {', '.join(self.names)}.")
        counts = torch.zeros(len(self.names), len(self.names), dtype=torch.long)
        for name, group in photos.items():
            for said in self(group):
                counts[self.names.index(name), self.names.index(said)] += 1
        return counts


def accuracy(confusion: Tensor) -> float:
    """Share of the counted photos on the diagonal of a confusion matrix."""
    return float(confusion.diagonal().sum() / confusion.sum().clamp_min(1))
