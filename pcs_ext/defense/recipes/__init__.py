"""Every way to protect photos, listed by hand."""

from pcs_ext.defense.method import DefenseEntry
from pcs_ext.defense.recipes.advdm import advdm
from pcs_ext.defense.recipes.aspl import aspl, aspl_compat, e_aspl, e_aspl_compat, t_aspl, t_aspl_compat
from pcs_ext.defense.recipes.caat import caat
from pcs_ext.defense.recipes.fsmg import fsmg, fsmg_compat, t_fsmg, t_fsmg_compat
from pcs_ext.defense.recipes.metacloak import metacloak
from pcs_ext.defense.recipes.mist import mist
from pcs_ext.defense.recipes.photoguard import photoguard
from pcs_ext.defense.recipes.pid import pid
from pcs_ext.defense.recipes.presets import balanced, fast, strong
from pcs_ext.defense.recipes.sds import sds
from pcs_ext.defense.recipes.simac import simac

__all__ = ["RECIPES"]

_ANTI = ("2303.15433", "anti-dreambooth")
_ENTRIES = (
    ("aspl", "surrogate and photos move in turn; the default", *_ANTI, aspl),
    ("aspl-compat", "the same as the released script computes it", *_ANTI, aspl_compat),
    ("t-aspl", "ASPL towards a target", *_ANTI, t_aspl),
    ("t-aspl-compat", "the same as released", *_ANTI, t_aspl_compat),
    ("e-aspl", "ASPL on several bases", *_ANTI, e_aspl),
    ("e-aspl-compat", "the same as released", *_ANTI, e_aspl_compat),
    ("fsmg", "a surrogate trained once, then attacked", *_ANTI, fsmg),
    ("fsmg-compat", "the same as released", *_ANTI, fsmg_compat),
    ("t-fsmg", "FSMG towards a target", *_ANTI, t_fsmg),
    ("t-fsmg-compat", "the same as released", *_ANTI, t_fsmg_compat),
    ("simac", "ASPL at chosen timesteps", "2312.07865", None, simac),
    ("caat", "photos and cross-attention keys and values move in turn", "CVPR 2024", None, caat),
    ("metacloak", "surrogates from all of a training take turns; transforms; slow", "2311.13127", None, metacloak),
    ("advdm", "the frozen base's loss", "2302.04578", None, advdm),
    ("mist", "the frozen base's loss and a moire target in latents", "2305.12683", None, mist),
    ("sds", "score distillation through the encoder, downhill", "2311.12832", None, sds),
    ("photoguard", "latents to zero, encoder only", "2302.06588", None, photoguard),
    ("fast", "a quarter of ASPL's cost; nobody measured what of its effect is left", "2303.15433", None, fast),
    ("balanced", "aspl under another name", "2303.15433", None, balanced),
    ("strong", "ASPL, twice the steps, against recompression and crops", "2303.15433", None, strong),
    ("pid", "mean and spread of the latents, encoder only", "ICML 2024", None, pid),
)
RECIPES: dict[str, DefenseEntry] = {
    id: DefenseEntry(
        id=id,
        summary=summary,
        paper=paper if " " in paper else f"arXiv {paper}",
        system=system,
        build=build,
    )
    for id, summary, paper, system, build in _ENTRIES
}
