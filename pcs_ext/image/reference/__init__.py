"""Pictures shown to a base by an adapter that was trained once for all subjects; every system, listed by hand.

The settings named `toybox` are ours, by analogy with what its own models train well with: a tenth of the weights bear
ten times the rate. Those of IP-Adapter were measured; PhotoMaker, FastComposer and ELITE took a few steps with
theirs, the others none.
"""

from pcs_ext.image.reference.conditions import CONDITIONS
from pcs_ext.image.reference.entry import ReferenceEntry
from pcs_ext.image.reference.examples import EXAMPLES
from pcs_ext.image.reference.interleaving import INTERLEAVING
from pcs_ext.image.reference.objects import OBJECTS
from pcs_ext.image.reference.people import PEOPLE
from pcs_ext.image.reference.placing import PLACING
from pcs_ext.image.reference.styles import STYLES

__all__ = ["REFERENCES", "ReferenceEntry"]

REFERENCES: dict[str, ReferenceEntry] = {
    **OBJECTS, **STYLES, **PEOPLE, **PLACING, **CONDITIONS, **EXAMPLES, **INTERLEAVING,
}  # fmt: skip
