"""The verdict on a code: healthy, collapsed by the KL term, or undertrained.

In a collapsed code and in an undertrained one alike, hardly a dimension varies over users; only the training tells them
apart. The KL term empties a code where its cost exceeds the gain in reconstruction: the weight of the term is then not
small, and the KL fell or did not change. In a run that was stopped early the KL is still growing, or the weight is so
small that no dimension costs anything.
"""

from collections.abc import Sequence

from recvae.files import Document, JsonObject

ACTIVE_VARIANCE = 0.01
"""A dimension is active where the posterior mean varies by more than this over users; Burda et al. 2016, section 5."""
COLLAPSED_SHARE = 0.05
"""The verdict is "collapsed" below this share of active dimensions."""
COLLAPSED_INFORMATION = 0.1
"""The verdict is "collapsed" below this information about the user in all dimensions, in nats."""
PARTLY_SHARE = 0.5
"""The verdict is "partly collapsed" below this share of active dimensions."""
LEAST_WEIGHT = 0.01
"""Below this weight of the KL term an empty code is "undertrained", as the term costs next to nothing."""
GROWTH = 1.1
"""Where the KL grew by more than this factor in the second half of the epochs, the code is "undertrained"."""


def verdict(active: int, dimensions: int, information: float, training: Sequence[Document] = ()) -> JsonObject:
    """Return whether the code is "healthy", "partly collapsed", "collapsed" or "undertrained", with the reason.

    ``training``: the rows of :func:`recvae.experiments.diagnose.training`. Without them an empty code is called
    collapsed.
    """
    counted = f"{active} of {dimensions} dimensions are active, and the code tells at most {information:.2f} nats"
    empty = active < COLLAPSED_SHARE * dimensions or information < COLLAPSED_INFORMATION
    unfinished = _unfinished(training, empty) if empty or active < PARTLY_SHARE * dimensions else None
    if unfinished:
        state = "undertrained"
        sentence = (
            f"Undertrained: {counted} of a user. The KL term did not empty the code: {unfinished}. Train for more "
            "epochs, or with a larger learning rate; a smaller weight of the KL term would not help."
        )
    elif empty:
        state = "collapsed"
        sentence = (
            f"Collapsed: {counted} of a user, so nearly everybody gets the same ranking. Train with a smaller weight "
            "of the KL term, or let it grow more slowly."
        )
    elif active < PARTLY_SHARE * dimensions:
        state = "partly collapsed"
        sentence = (
            f"Partly collapsed: {counted} of a user. The other dimensions are noise that the decoder does not hear: "
            "the ranking can be good all the same, and a smaller latent would do, or a smaller weight of the KL term."
        )
    else:
        state, sentence = "healthy", f"Healthy: {counted} of a user."
    return {
        "state": state,
        "sentence": sentence,
        "thresholds": {
            "active_above_variance": ACTIVE_VARIANCE,
            "collapsed_below_active_share": COLLAPSED_SHARE,
            "collapsed_below_information": COLLAPSED_INFORMATION,
            "partly_below_active_share": PARTLY_SHARE,
            "undertrained_below_weight": LEAST_WEIGHT,
            "undertrained_above_growth": GROWTH,
        },
    }


def thresholds(verdict: Document) -> str:
    """Return the sentence with a verdict's thresholds."""
    at = verdict["thresholds"]
    return (
        f"A dimension is active where the posterior mean varies by more than {at['active_above_variance']:g} over "
        f"users. Collapsed: fewer than {at['collapsed_below_active_share']:.0%} are active, or all of them tell less "
        f"than {at['collapsed_below_information']:g} nats; partly collapsed: fewer than "
        f"{at['partly_below_active_share']:.0%} are active. Undertrained instead: up to the epoch that was kept, the "
        f"KL term's weight was below {at['undertrained_below_weight']:g}, or in the second half of the epochs the KL "
        f"grew by more than a factor of {at['undertrained_above_growth']:g} while the reconstruction got better."
    )


def _unfinished(training: Sequence[Document], empty: bool) -> str | None:
    """Return the evidence, up to the epoch that was kept, that a code is undertrained, or None.

    A small weight is evidence for an empty code only: a long run may leave some dimensions unused.
    """
    rows = [row for row in training if row["kl"] is not None]
    kept = [place for place, row in enumerate(rows) if row["best"]]
    rows = rows[: kept[-1] + 1] if kept else rows
    if not rows:
        return None
    if len(rows) == 1:
        return "it had a single epoch"
    weight = max(row["beta"] or 0.0 for row in rows)
    if empty and weight < LEAST_WEIGHT:
        return f"its weight was never above {weight:.2g}, so that no dimension was dear"
    middle, last = rows[(len(rows) - 1) // 2], rows[-1]
    if last["kl"] > GROWTH * middle["kl"] and last["nll"] < middle["nll"]:
        return (
            f"from epoch {middle['epoch']} to {last['epoch']} the KL grew from {middle['kl']:.2g} to {last['kl']:.2g} "
            "nats a user, and the reconstruction got better"
        )
    return None
