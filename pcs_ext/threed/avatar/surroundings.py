"""What a prompt says of the place alone: the words that surroundings are painted under, so that no second figure stands
in them."""

import re

from pcs_ext.image.concept import SUBJECT
from pcs_ext.threed.avatar.pose_words import ARMS, HEAD, LEGS, TRUNK

NOWHERE = "on a plain background"
"""Where a prompt says no place."""
_GONE = "\0"
_JOINTS = r"(?:\b(?:a|an|the|of|and|while|is)\b|[\s,;.])*"
"""What hangs on a word and makes no sense without it."""


def surroundings_of(prompt: str) -> str:
    """A prompt without its subject and without the phrases of the grammar of poses.

    "a photo of {subject} sitting and raising the left arm on the beach" becomes "a photo on the beach".
    """
    phrases = [text for kind in (LEGS, TRUNK, ARMS, HEAD) for phrase in kind for text in phrase.texts]
    # The longest first: "standing with legs apart" before "standing".
    alike = "|".join(re.escape(text) for text in sorted(phrases, key=len, reverse=True))
    without = re.sub(rf"\b(?:{alike})\b", _GONE, prompt.replace(SUBJECT, _GONE), flags=re.IGNORECASE)
    medium = re.match(rf"\s*(.+?)\s+of\s+(?:(?:a|an|the)\s+)?(?={_GONE})", without)
    said, rest = (medium[1], without[medium.end() :]) if medium else ("", without)
    place = re.sub(rf"{_JOINTS}{_GONE}(?:{_JOINTS}{_GONE})*(?:\s|[,;.]|\b(?:and|while)\b)*", " ", rest)
    return " ".join(part for part in (said, place.strip(" ,;.") or NOWHERE) if part)
