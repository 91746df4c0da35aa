"""The audit, listed by hand.

The survey's row on personalization as a backdoor shortcut (Huang et al., arXiv 2305.10701) is an attack. This suite
implements it as what a user needs against it: the auditor. The attack itself, in both forms, is built only as test
material (`benchmarks/backdoors.py`), out of ordinary training on mismatched pairs; no command makes one.
"""

from pcs_ext.defense.audit.method import AuditEntry, AuditMethod
from pcs_ext.image.recipes import Preset


def audit(preset: Preset) -> AuditMethod:
    """The same probes for all bases; larger vocabularies get more words."""
    return AuditMethod(id="audit", words=200 if preset == "toybox" else 2000, painted=32 if preset == "toybox" else 96)


RECIPES: dict[str, AuditEntry] = {
    "audit": AuditEntry(
        id="audit",
        summary="files from strangers: does a word switch what is painted, is the subject what it is said to be",
        paper="against arXiv 2305.10701",
        system="huang-backdoor",
        build=audit,
    )
}
