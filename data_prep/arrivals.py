"""What a time split's users bring that training had not seen: new users, and clicks on new items.

The file arrivals.csv of a dataset folder holds one row for each user of validation and test.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from data_prep.folder import DatasetFolder
from data_prep.manifest import AGAIN, ARRIVALS, SPLITS
from recvae.errors import FormatError
from recvae.files import Document, JsonObject, write_table

HEADER = ("split", "row", "new_user", "new_item_clicks")


@dataclass(frozen=True, eq=False)
class Arrivals:
    """The news in one part of a time split; entry r is about row r of the part's matrices.

    ``new_users`` bool (n,): the user has no click before the part begins. ``new_item_clicks`` int64 (n,): held-out
    clicks on items without a click in the training period. They are in no matrix, and count as not found.
    """

    new_users: npt.NDArray[np.bool_]
    new_item_clicks: npt.NDArray[np.int64]

    def counts(self, held_out: csr_array) -> dict[str, int]:
        """Return new users and the held-out clicks of each group, for the manifest; ``held_out`` CSR (n, n_items)."""
        clicks = np.diff(held_out.indptr) + self.new_item_clicks
        return {
            "new_users": int(np.count_nonzero(self.new_users)),
            "clicks_of_new_users": int(clicks[self.new_users].sum()),
            "clicks_of_known_users": int(clicks[~self.new_users].sum()),
            "clicks_on_new_items": int(self.new_item_clicks.sum()),
        }


def entries(arrivals: Mapping[str, Arrivals], held_out: Mapping[str, csr_array]) -> JsonObject:
    """Return the manifest's entry on arrivals: none but for a time split."""
    found = {part: of_part.counts(held_out[part]) for part, of_part in arrivals.items()}
    return {"arrivals": found} if found else {}


def write_arrivals(folder: Path, arrivals: Mapping[str, Arrivals]) -> None:
    """Write arrivals.csv, where there are any."""
    if arrivals:
        write_table(folder / ARRIVALS, HEADER, _rows(arrivals))


def _rows(arrivals: Mapping[str, Arrivals]) -> Iterable[tuple[str, int, int, int]]:
    for split, found in arrivals.items():
        of_users = zip(found.new_users.tolist(), found.new_item_clicks.tolist(), strict=True)
        for row, (is_new, clicks) in enumerate(of_users):
            yield split, row, int(is_new), clicks


def read_arrivals(folder: DatasetFolder | None, manifest: Document) -> dict[str, Arrivals]:
    """Return the arrivals of an opened dataset: none but of a time split.

    Raises :class:`FormatError` where the file is damaged, or not about the users of the manifest.
    """
    if folder is None or "arrivals" not in manifest:
        return {}
    users = {split: int(manifest["counts"]["users"][split]) for split in SPLITS[1:]}
    found = _parsed(folder.table(ARRIVALS, HEADER), users)
    if found is None:
        raise FormatError(f"{folder.path / ARRIVALS} does not number the users of validation and test. {AGAIN}")
    return found


def _parsed(rows: Iterable[Sequence[str]], users: Mapping[str, int]) -> dict[str, Arrivals] | None:
    """Return rows of the file as arrivals, None where they are not one for each of so many ``users``."""
    found: dict[str, list[tuple[bool, int]]] = {split: [] for split in users}
    for split, row, is_new, clicks in rows:
        fits = split in found and row == str(len(found[split])) and is_new in ("0", "1")
        if not fits or not (clicks.isascii() and clicks.isdecimal() and len(clicks) < 10):
            return None
        found[split].append((is_new == "1", int(clicks)))
    if any(len(found[split]) != n for split, n in users.items()):
        return None
    return {
        split: Arrivals(np.array([new for new, _ in told], bool), np.array([n for _, n in told], np.int64))
        for split, told in found.items()
    }


def check_arrivals(
    where: str, arrivals: Mapping[str, Arrivals], held_out: Mapping[str, csr_array], manifest: Document
) -> None:
    """Raise :class:`FormatError` where the arrivals do not fit the counts of the manifest."""
    if entries(arrivals, held_out).get("arrivals") != manifest.get("arrivals"):
        raise FormatError(f"{where}{ARRIVALS} does not fit the counts of manifest.json. {AGAIN}")
