"""Top-k lists: score, mask, select, in bounded memory, and their reasons. The one way behind evaluation and serving."""

from recvae.ranking.lists import SCORES_IN_MEMORY, keep_admissible, rank
from recvae.ranking.reasons import find_reasons
from recvae.ranking.selection import NOT_NUMBERS, top_k

__all__ = ["NOT_NUMBERS", "SCORES_IN_MEMORY", "find_reasons", "keep_admissible", "rank", "top_k"]
