"""Top-k lists: score, mask, select, in bounded memory. The one way behind evaluation, command line and server."""

from recvae.ranking.lists import NOT_NUMBERS, SCORES_IN_MEMORY, rank, top_k

__all__ = ["NOT_NUMBERS", "SCORES_IN_MEMORY", "rank", "top_k"]
