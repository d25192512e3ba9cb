"""Instruments: the code, the likelihood and the rankings of a trained model, in numbers.

What an epoch's loss was made of, what each latent dimension carries, whether the posterior collapsed, how likely the
clicks are (ELBO and importance-weighted estimate), who is ranked for well and which items are found, and a map of the
items. Everything is plain data for JSON; :mod:`recvae.reports.diagnosis_page` makes a page of it. docs/elbo.md has the
equations, docs/formats.md the shape. Nothing here prints.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from eval import summarize
from recvae.errors import InputError, WorkError
from recvae.experiments.bounds import Evidence, evidence
from recvae.experiments.facts import beyond_catalogue
from recvae.experiments.groups import recall_by_group
from recvae.experiments.item_map import item_map
from recvae.files import Document, JsonObject
from recvae.matrices import item_counts
from recvae.models.neural import NeuralRecommender
from recvae.nn.batches import Batch
from recvae.nn.network import Network
from recvae.nn.noise import Noise
from recvae.registry import entry
from recvae.reports.collapse import ACTIVE_VARIANCE, verdict

if TYPE_CHECKING:
    from data_prep.dataset import Dataset
    from recvae.recommender import Recommender


Floats = NDArray[np.float64]
Progress = Callable[[str, int, int], None]  # label, done, in all

SPLITS = ("test", "validation", "train")

_USERS_AT_ONCE = 256


def diagnose(
    model: "Recommender",
    data: "Dataset",
    epochs: Sequence[Document],
    *,
    split: str = "test",
    samples: int = 1000,
    users: int = 500,
    seed: int = 0,
    progress: Progress | None = None,
) -> JsonObject:
    """Return the diagnosis of a model on a split's users, as plain data.

    ``epochs``: the objects of the run's metrics.jsonl. ``users``, at most, are drawn for what is about the code and
    about log p(x), with ``samples`` draws of z each; their clicks are those of the training matrix, or the fold-in
    clicks. Recall is over all users of the split with held-out clicks. A part that does not apply to the model is None,
    and a sentence among ``notes`` says why. Raises :class:`InputError` for arguments out of range, a split without
    held-out clicks, or a catalogue that is not the model's.
    """
    _check(model, data, split, samples, users)
    notes: list[str] = []
    curves = training(epochs)
    neural = model if isinstance(model, NeuralRecommender) else None
    network = None if neural is None else neural.network
    latent = likelihood = None
    if neural is None or network is None:
        notes.append(f"{entry(model.name).title} is no variational model, so there is no KL and no log p(x) of it.")
    else:
        shown = model.held_out_inputs(data, split).query
        clicks, conditions = shown.histories, shown.conditions
        chosen = _choose(clicks, users, seed)
        batches = _batches(neural, clicks[chosen], None if conditions is None else conditions[chosen])
        try:
            with _frozen(network):
                found = _evidence(network, batches, samples, Noise(seed, model.device), progress)
                likelihood = {**_likelihood(found), "prior": network.about}
                sampled = None if network.has_standard_prior else found
                latent = latent_dimensions(*_posterior(network, batches), sampled, curves)
        except InputError as error:  # no posterior, or not one Gaussian
            missing = "no KL and no log p(x) of it" if likelihood is None else "no verdict on its collapse"
            notes.append(f"{error} So there is {missing}.")
        if model.about_likelihood:
            notes.append(model.about_likelihood)
    if not epochs:
        notes.append("The run has no record of epochs, so there are no curves of its training.")
    counts = item_counts(data.train)
    recall = None
    if split == "train":
        notes.append("Training users have no held-out clicks, so there is no recall; use --split test.")
    else:
        told = None if progress is None else lambda done, total: progress("rank users", done, total)
        shown, wanted = model.held_out_inputs(data, split)
        recall = recall_by_group(model, shown, wanted, counts, told, beyond_catalogue(data, split))
    if network is None:
        notes.append(f"{entry(model.name).title} has no decoder, so there is no map of its items.")
    return {
        "kind": "recvae-diagnosis",
        "model": model.name,
        "split": split,
        "settings": {"samples": samples, "users": users, "seed": seed},
        "validation_metric": model.dataset.get("validation_metric"),
        "training": curves,
        "latent": latent,
        "likelihood": likelihood,
        "recall": recall,
        "items": None if network is None else item_map(model, network, counts),
        "notes": notes,
    }


def _check(model: "Recommender", data: "Dataset", split: str, samples: int, users: int) -> None:
    if split not in SPLITS:
        raise InputError(f"There is no split '{split}' to look at; use {', '.join(SPLITS)}.")
    if samples < 2 or users < 2:
        raise InputError(f"--samples and --users must be at least 2, and are {samples} and {users}.")
    if model.items.hash() != data.vocabulary_hash:
        raise InputError("The model was trained on another catalogue than the dataset's: the columns are other items.")
    if split != "train" and not data.matrix(f"{split}_out").nnz:
        raise InputError(
            f"{data.path or data.name} has no {split} users with held-out clicks. Use another --split, or prepare the "
            "data with more of them held out."
        )


def _choose(clicks: csr_array, users: int, seed: int) -> NDArray[np.int64]:
    """Return the rows of at most ``users`` users with clicks, drawn with the seed, in ascending order."""
    able = np.flatnonzero(np.diff(clicks.indptr))
    if len(able) < 2:
        raise InputError("Fewer than two users of this split have any clicks; nothing can be said of the code.")
    chosen: NDArray[np.int64] = np.sort(np.random.default_rng(seed).permutation(able)[:users])
    return chosen


# --- training --------------------------------------------------------------------------------------------------------


def training(epochs: Sequence[Document]) -> list[JsonObject]:
    """Return one object per epoch and phase: reconstruction, KL, weighted KL and the KL's weight, means per user.

    ``weighted_kl`` is beta * KL where all epochs recorded the same beta, else loss - nll: what is recorded of a weight
    that moves is its last value in the epoch, and the loss may have other terms (VAEAC's hyperprior). ``beta`` is the
    recorded weight, or where the weight differs between users (RecVAE's gamma n_u) the effective one, weighted KL / KL.
    None where the phase has no KL term.
    """
    recorded: dict[str, set[float | None]] = {}
    for epoch in epochs:
        for phase, values in epoch["phases"].items():
            recorded.setdefault(phase, set()).add(values.get("beta"))
    rows = []
    for epoch in epochs:
        for phase, values in epoch["phases"].items():
            kl, beta = values.get("kl"), values.get("beta")
            weighted = None if kl is None else values["loss"] - values["nll"]
            if kl is not None and beta is not None and len(epochs) > 1 and len(recorded[phase]) == 1:
                weighted = beta * kl
            if beta is None and kl is not None and weighted is not None and kl > 0:
                beta = weighted / kl
            rows.append(
                {
                    "epoch": epoch["epoch"],
                    "phase": phase,
                    "nll": values["nll"],
                    "kl": kl,
                    "weighted_kl": weighted,
                    "beta": beta,
                    "score": epoch.get("score"),
                    "best": epoch["epoch"] == epochs[-1].get("best_epoch"),
                }
            )
    return rows


# --- the code and log p(x) -------------------------------------------------------------------------------------------


@contextmanager
def _frozen(network: Network) -> Iterator[None]:
    """Let no parameter need a gradient: for one, a likelihood keeps tensors in memory that nothing here uses."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    network.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _batches(model: NeuralRecommender, clicks: csr_array, conditions: csr_array | None) -> list[Batch]:
    """Return users' clicks (n, n_items) in batches, each under its users' conditions, CSR (n, C) or None."""
    parts = [slice(start, start + _USERS_AT_ONCE) for start in range(0, clicks.shape[0], _USERS_AT_ONCE)]
    return [model.batch(clicks[part], None if conditions is None else conditions[part]) for part in parts]


def _evidence(
    network: Network, batches: Sequence[Batch], samples: int, noise: Noise, progress: Progress | None
) -> Evidence:
    """Return the estimates of log p of the users' clicks from ``samples`` draws of z."""
    done, parts = 0, []

    def count() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress("estimate log p(x)", done, samples * len(batches))

    for batch in batches:
        with np.errstate(invalid="ignore"):  # said below
            parts.append(evidence(network, batch, noise, samples, count))
    found = Evidence.joined(parts)
    if not np.isfinite(found.bounds[1]).all():
        raise WorkError("The model gives numbers that are not finite. Train it again.")
    return found


def _posterior(network: Network, batches: Sequence[Batch]) -> tuple[Floats, Floats]:
    """Return mean and log-variance of every user's posterior, float64 (n, K) each."""
    pairs = [network.posterior(batch) for batch in batches]
    mu, logvar = (torch.cat(parts).cpu().double().numpy() for parts in zip(*pairs, strict=True))
    return mu, logvar


def latent_dimensions(
    mu: Floats, logvar: Floats, sampled: Evidence | None = None, curves: Sequence[Document] = ()
) -> JsonObject:
    """Return KL, information and activity of each dimension, and the verdict, from posteriors (n, K) of n users.

    ``kl``: mean over users of KL(q(z_k | x) || p(z_k)), against N(0, 1) in closed form, or taken from ``sampled`` for
    another prior (None where that does not factorise). ``activity``: A_k = Var_x(E_q[z_k]) of Burda et al. 2016.
    ``information``: an upper bound on what z_k tells of the user, I(x; z_k) <= mean KL(q(z_k | x) || N(m_k, s_k^2))
    = (log s_k^2 - mean log var_k) / 2, with m_k and s_k^2 the mean and variance of z_k over all users together. It
    depends on no prior, so it can be compared between models; against N(0, 1), kl = information + the KL of
    N(m_k, s_k^2) from N(0, 1). ``curves``, from :func:`training`, are what the verdict knows of the run.
    """
    variance = np.exp(logvar)
    activity = mu.var(axis=0)
    information = 0.5 * (np.log(variance.mean(axis=0) + activity) - logvar.mean(axis=0))
    if sampled is None:
        per_user = 0.5 * (variance + mu**2 - 1 - logvar)
        kl, of_users = per_user.mean(axis=0), per_user.sum(axis=1)
    else:
        of_users = sampled.kl
        kl = sampled.kl_per_dimension.mean(axis=0)
        if len(kl) != mu.shape[1]:
            kl = np.full(mu.shape[1], np.nan)
    active = activity > ACTIVE_VARIANCE
    return {
        "users": len(mu),
        "kl_is": "closed form" if sampled is None else "sampled",
        "kl": summarize(of_users).to_dict(),
        "information": float(information.sum()),
        "active": int(active.sum()),
        "dimensions": [
            {
                "dimension": k,
                "kl": None if math.isnan(kl[k]) else float(kl[k]),
                "information": float(information[k]),
                "activity": float(activity[k]),
                "active": bool(active[k]),
            }
            for k in range(mu.shape[1])
        ],
        "verdict": verdict(int(active.sum()), mu.shape[1], float(information.sum()), curves),
    }


def _likelihood(found: Evidence) -> JsonObject:
    """Return means over users of the ELBO, its parts and the bounds above it."""
    n = len(found.kl)
    bounds = []
    for k, values in found.bounds.items():
        spread = math.sqrt(found.variances[k].sum()) / n
        bounds.append(
            {"samples": k, **summarize(values).to_dict(), "monte_carlo_se": None if math.isnan(spread) else spread}
        )
    return {
        "users": n,
        "samples": found.samples,
        "elbo": bounds[0],
        "reconstruction": summarize(found.reconstruction).to_dict(),
        "kl": summarize(found.kl).to_dict(),
        "log_p": bounds[-1],
        "gap": summarize(found.bounds[found.samples] - found.bounds[1]).to_dict(),
        "bounds": bounds,
        "effective_samples": {
            "median": float(np.median(found.effective)),
            "least": float(found.effective.min()),
        },
    }
