"""How likeness is asked for beside the denoising error."""

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.concept import SUBJECT


@config
class IdentityConfig:
    """Photos and the clean pictures that their predictions imply, compared by an image encoder (a face recogniser in
    the papers)."""

    encoder: str
    """`toybox/dino`, a CLIP (`toybox`), a transformers folder or a hub id; any that the metrics read."""
    weight: float = 0.1
    """Of 1 - cosine of a photo and its own clean picture; 0: none."""
    contrast: float = 0.0
    """Of telling that picture's photo from class images (NT-Xent); counts where there are class images; 0: none."""
    temperature: float = 0.5
    """Of the contrast, above 0; SimCLR's (arXiv 2002.05709)."""
    below: float = 0.5
    """Share of the noise schedule above which a clean picture is too vague to be looked at, in (0, 1]; ours."""

    def __post_init__(self) -> None:
        if min(self.weight, self.contrast) < 0 or self.weight + self.contrast == 0 or self.temperature <= 0:
            raise ConfigError(
                "weight and contrast are 0 or more, one of them above 0, and the temperature is above 0; got "
                f"{self.weight}, {self.contrast} and {self.temperature}."
            )
        check_below(self.below)


@config
class ComposedConfig:
    """Pictures of a style, asked for under a prompt of a subject in that style (MagiCapture, arXiv 2309.06895)."""

    template: str
    """That prompt, with `{subject}` and the style's word."""
    subject: str
    """Adapter of the subject's word."""
    style: str
    """Adapter of the style's word."""
    encoder: str
    """Of identities; see `IdentityConfig`."""
    denoising: float = 1.0
    """Weight of the error inside the style pictures' masks."""
    attention: float = 2.5
    """Weight of attention refocusing: the subject's word outside of its own place, the style's outside of its."""
    identity: float = 1.0
    """Weight of 1 - cosine of what stands in the subject's place and the photos of the subject."""
    side: int = 16
    """Of the attention maps, in cells."""
    below: float = 0.5
    """As in `IdentityConfig`."""
    pictures: int = 1
    """Looked at in every step."""

    def __post_init__(self) -> None:
        if SUBJECT not in self.template or min(self.denoising, self.attention, self.identity) < 0 or self.pictures < 1:
            raise ConfigError(
                f"a composed prompt says {SUBJECT}, its weights are 0 or more and it takes 1 picture or more; got "
                f"{self.template!r}, {self.denoising}, {self.attention}, {self.identity} and {self.pictures}."
            )
        check_below(self.below)


def check_below(below: float) -> None:
    """See that it is a share of the noise schedule.

    Raises:
        ConfigError: it is not.
    """
    if not 0 < below <= 1:
        raise ConfigError(f"below is a share of the noise schedule in (0, 1], got {below}.")
