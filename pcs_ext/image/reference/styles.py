"""Systems that show a style: what each is, and how it is trained. Albums hold pictures of one style each."""

from pcs_ext.image.reference.entry import ReferenceEntry
from pcs_ext.image.reference.systems.artadapter import ArtAdapterConfig
from pcs_ext.image.reference.systems.styleadapter import StyleAdapterConfig
from pcs_ext.image.reference.training import ReferenceTraining

STYLES: dict[str, ReferenceEntry] = {
    "styleadapter": ReferenceEntry(
        id="styleadapter",
        summary="a style's own path of attention; pictures are read with their patches out of order",
        paper="arXiv 2309.01770",
        system="styleadapter",
        adapter=StyleAdapterConfig(),
        # Section 4.1, as recalled: rate 8e-6, batch 8; three pictures of a style. Shares dropped are IP-Adapter's.
        training=ReferenceTraining(batch_size=8, learning_rate=8e-6, photos=3),
        toybox=ReferenceTraining(
            adapter=StyleAdapterConfig(tokens=4, width=192, depth=2, heads=4),
            steps=3000,
            batch_size=16,
            learning_rate=1e-3,
            photos=3,
        ),
        toybox_encoder="toybox/clip",
    ),
    "artadapter": ReferenceEntry(
        id="artadapter",
        summary="a style's tokens of several levels in one attention with the text; content is kept out of them",
        paper="arXiv 2312.02109",
        system="artadapter",
        adapter=ArtAdapterConfig(),
        # Ours, after IP-Adapter's: the paper's are not known here.
        training=ReferenceTraining(batch_size=8, learning_rate=1e-4),
        toybox=ReferenceTraining(
            adapter=ArtAdapterConfig(hidden=192, content_hidden=32), steps=3000, batch_size=16, learning_rate=1e-3
        ),
        toybox_encoder="toybox/clip",
    ),
}
