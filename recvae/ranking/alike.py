"""How alike items are: one item and all others, or the pairs of a few candidates alone."""

from collections.abc import Callable

import torch
from torch import Tensor


def cosines(vectors: Tensor, items: Tensor) -> Tensor:
    """Return the cosines of the rows ``items`` (n,) of ``vectors`` (n_items, K) with all rows, (n, n_items)."""
    vectors = vectors.detach()
    if torch.compiler.is_exporting():  # a graph reads the vectors as a model keeps them, and holds no second table
        lengths: Tensor = torch.linalg.vector_norm(vectors, dim=1).clamp(min=1e-12)
        own = vectors.index_select(0, items)
        return torch.nn.functional.linear(own, vectors) / lengths / lengths.index_select(0, items)[:, None]
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    return vectors.index_select(0, items.to(vectors.device)) @ vectors.T


def cosines_among(vectors: Tensor, items: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the cosines of rows of ``vectors`` (n_items, K), as a recommender's ``similarity_among`` does."""
    vectors = vectors.detach()
    own = vectors.index_select(0, items.to(vectors.device).flatten()).view(*items.shape, vectors.shape[1])  # (b, P, K)
    own /= torch.linalg.vector_norm(own, dim=2, keepdim=True).clamp_min_(1e-12)
    rows = torch.arange(len(items), device=vectors.device)
    across = own.transpose(1, 2)  # so, and not as own times a column, torch multiplies fast
    return lambda places: torch.bmm(own[rows, places.to(vectors.device)][:, None], across)[:, 0]


def among_all(similarity: Callable[[Tensor], Tensor], items: Tensor) -> Callable[[Tensor], Tensor]:
    """Return :meth:`recvae.recommender.Recommender.similarity_among` of a model that has ``similarity`` alone.

    Each call reads the similarities of the chosen items to every item. Raises what ``similarity`` raises at once.
    """

    def alike(places: Tensor) -> Tensor:
        found = similarity(items.gather(1, places[:, None])[:, 0].cpu())
        return found.gather(1, items.to(found.device)).nan_to_num_(nan=0.0, neginf=0.0)

    if items.numel():
        similarity(items[:1, 0].cpu())  # a model without similarities says so before any work
    return alike
