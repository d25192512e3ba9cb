"""Top-k lists: score, mask, select, in bounded memory. The one way behind evaluation, command line and server."""

from recvae.ranking.lists import SCORES_IN_MEMORY, keep_admissible, rank
from recvae.ranking.selection import NOT_NUMBERS, top_k

__all__ = ["NOT_NUMBERS", "SCORES_IN_MEMORY", "keep_admissible", "rank", "top_k"]
