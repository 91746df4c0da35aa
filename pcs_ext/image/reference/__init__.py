"""Pictures shown to a frozen base by an adapter that was trained once for all subjects; every kind, listed by hand."""

from pcs_ext.image.reference.base import ReferenceEntry

__all__ = ["REFERENCES", "ReferenceEntry"]

REFERENCES: dict[str, ReferenceEntry] = {
    "ip-adapter": ReferenceEntry(
        id="ip-adapter",
        summary="pictures as keys and values beside the text's",
        paper="arXiv 2308.06721",
        system="ip-adapter",
    ),
}
