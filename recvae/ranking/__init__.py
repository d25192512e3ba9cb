"""Top-k lists: score, mask, select, in bounded memory, and their reasons. The one way behind evaluation and serving."""

from recvae.ranking.lists import NOT_NUMBERS, SCORES_IN_MEMORY, apply_rules, rank, top_k
from recvae.ranking.reasons import find_reasons

__all__ = ["NOT_NUMBERS", "SCORES_IN_MEMORY", "apply_rules", "find_reasons", "rank", "top_k"]
