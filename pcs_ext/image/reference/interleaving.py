"""Systems in which a multimodal language model reads pictures among words: what each is, and how it is trained."""

from pcs_ext.image.reference.entry import ReferenceEntry
from pcs_ext.image.reference.language_model import LanguageConfig
from pcs_ext.image.reference.systems.emu2 import Emu2Config
from pcs_ext.image.reference.systems.kosmos_g import KosmosGConfig
from pcs_ext.image.reference.training import ReferenceTraining

_SMALL = LanguageConfig(width=256, depth=4, heads=4)
"""A language of some hundred words."""

INTERLEAVING: dict[str, ReferenceEntry] = {
    "kosmos-g": ReferenceEntry(
        id="kosmos-g",
        summary="a language model reads words and photos in the text encoder's place; several subjects",
        paper="arXiv 2310.02992",
        system="kosmos-g",
        adapter=KosmosGConfig(),
        # A fifth of the released mixture is captions alone, a tenth of all nothing. Its rate is 1e-3 at batches of
        # 3,584 captions and 1,024 pictures.
        training=ReferenceTraining(batch_size=64, drop_image=0.2, drop_text=0.0, drop_both=0.1, photos=2),
        toybox=ReferenceTraining(
            adapter=KosmosGConfig(language=_SMALL, words=16, width=192, depth=3, heads=4),
            steps=8000,
            batch_size=32,
            learning_rate=5e-4,
            drop_image=0.2,
            drop_text=0.0,
            drop_both=0.1,
            photos=2,
        ),
    ),
    "emu2": ReferenceEntry(
        id="emu2",
        summary="a language model goes on in words and pictures, which the trained denoiser draws; several subjects",
        paper="arXiv 2312.13286",
        system="emu2",
        adapter=Emu2Config(),
        # Its rates are not known here; those of the weights in the base are what others train a denoiser with.
        training=ReferenceTraining(
            batch_size=64, base_learning_rate=1e-5, drop_image=0.1, drop_text=0.0, drop_both=0.1, photos=2
        ),
        toybox=ReferenceTraining(
            adapter=Emu2Config(language=_SMALL),
            steps=8000,
            batch_size=32,
            learning_rate=5e-4,
            base_learning_rate=1e-4,
            drop_image=0.1,
            drop_text=0.0,
            drop_both=0.1,
            photos=2,
        ),
    ),
}
