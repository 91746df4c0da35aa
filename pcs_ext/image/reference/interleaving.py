"""Systems in which a multimodal language model reads pictures among words: what each is, and how it is trained."""

from pcs_ext.image.reference.entry import ReferenceEntry
from pcs_ext.image.reference.language_model import LanguageConfig
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
}
