"""Top-k lists: score, mask, select, in bounded memory, and their reasons. The one way behind evaluation and serving.

``masks``, ``reasons``, ``mixing`` and ``best`` need NumPy alone, and exported models rank with them; ``lists``,
``selection``, ``rerank`` and ``alike`` are of torch. So nothing is imported here.
"""
