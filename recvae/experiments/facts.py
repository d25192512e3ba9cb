"""The facts of a dataset that runs and tables keep, and a comparison that tells whether two are of one split."""

from typing import TYPE_CHECKING, Any

from recvae.files import Document, JsonObject

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from data_prep.dataset import Dataset


def facts(data: "Dataset", **more: Any) -> JsonObject:
    """Return the facts of a dataset that a run or a table keeps, as plain values, with ``more`` added."""
    manifest = data.manifest
    return {
        "name": data.name,
        "vocabulary": data.vocabulary_hash,
        **{key: manifest[key] for key in ("filters", "protocol", "counts") if key in manifest},
        **more,
    }


def other_split(told: Document, data: "Dataset") -> bool:
    """Return whether the facts that a run keeps of its dataset are of another split than ``data``.

    Equal columns do not make the same split: the clicks that one holds out may be training clicks of the other. A run
    that was trained from Python without facts tells nothing.
    """
    ours = facts(data)
    return any(told[key] != ours.get(key) for key in ("filters", "protocol", "counts") if key in told)


def beyond_catalogue(data: "Dataset", split: str) -> "NDArray[np.int64] | None":
    """Return the held-out clicks of each user of ``split`` on new items, int64 (n,); None but for a time split."""
    arrivals = data.arrivals(split)
    return None if arrivals is None else arrivals.new_item_clicks


def doubt_about_start(run: "Path", told: Document, data: "Dataset") -> str:
    """Return a sentence where ``run``, by its facts, may have learned from held-out clicks of ``data``; else ''.

    A model that starts from such a run has a validation score that is too good.
    """
    if "refit" in told:
        why = "it was refitted on validation clicks too. Start from the run that it was refitted from"
    elif other_split(told, data) and data.manifest.get("protocol", {}).get("split") == "strong":
        why = (
            "a strong split draws its held-out users anew where the data have changed. A split by time holds out what "
            "no earlier run has seen (recvae prepare --split temporal, or --split time)"
        )
    else:
        return ""
    return (
        f"{run} may have learned from held-out clicks of {data.path or data.name}, so that scores are too good and the "
        f"epoch that they choose may be too early: {why}."
    )
