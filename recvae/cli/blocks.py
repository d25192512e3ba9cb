"""Ranked lists of some users, on their way to a file or the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from recvae.queries import Reasons


@dataclass(frozen=True)
class Block:
    """Ranked lists of some users: ids int32 and scores float32, (b, k), padded with -1 and -inf, and their reasons."""

    users: Sequence[str | None]
    ids: "NDArray[np.int32]"
    scores: "NDArray[np.float32]"
    reasons: "Reasons | None" = None
