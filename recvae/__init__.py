"""Variational autoencoders for collaborative filtering, right to their papers.

The public objects (:class:`RecVAE`, :class:`RecVAEEDLAE`, :class:`MultVAE`, :class:`ConditionalVAE`, :class:`VampVAE`,
:class:`VAEAC`, :class:`MultDAE`, :class:`EASE`, :class:`EDLAE`, :class:`ImplicitALS`, :class:`ItemKNN`,
:class:`Popularity`, :class:`Blend`) are imported on first use (PEP 562), so that ``import recvae`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recvae.baselines.als import ImplicitALS
    from recvae.baselines.ease import EASE
    from recvae.baselines.edlae import EDLAE
    from recvae.baselines.item_knn import ItemKNN
    from recvae.baselines.popularity import Popularity
    from recvae.blend import Blend
    from recvae.conditional import ConditionalVAE
    from recvae.errors import RecvaeError
    from recvae.recommender import Recommender, load
    from recvae.vae import MultDAE, MultVAE, RecVAE, RecVAEEDLAE, VampVAE
    from recvae.vaeac import VAEAC

__version__ = "0.1.0"

__all__ = [
    "EASE",
    "EDLAE",
    "VAEAC",
    "Blend",
    "ConditionalVAE",
    "ImplicitALS",
    "ItemKNN",
    "MultDAE",
    "MultVAE",
    "Popularity",
    "RecVAE",
    "RecVAEEDLAE",
    "Recommender",
    "RecvaeError",
    "VampVAE",
    "__version__",
    "load",
]

_HOME = {
    "Blend": "recvae.blend",
    "ConditionalVAE": "recvae.conditional",
    "EASE": "recvae.baselines.ease",
    "EDLAE": "recvae.baselines.edlae",
    "ImplicitALS": "recvae.baselines.als",
    "ItemKNN": "recvae.baselines.item_knn",
    "MultDAE": "recvae.vae",
    "MultVAE": "recvae.vae",
    "Popularity": "recvae.baselines.popularity",
    "RecVAE": "recvae.vae",
    "RecVAEEDLAE": "recvae.vae",
    "Recommender": "recvae.recommender",
    "RecvaeError": "recvae.errors",
    "VAEAC": "recvae.vaeac",
    "VampVAE": "recvae.vae",
    "load": "recvae.recommender",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'recvae' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
