"""Any registered model with settings that train in a moment."""

from dataclasses import fields

from recvae.models.neural import NeuralRecommender
from recvae.registry import MODELS

QUICK = {"hidden": 16, "latent": 8, "epochs": 1, "batch_size": 100, "pseudo_inputs": 20, "factors": 8, "iterations": 2}

NEURAL = [name for name, entry in MODELS.items() if issubclass(entry.model_class(), NeuralRecommender)]


def quick(name, **more):
    """The model of a name, not fitted; it takes those of the settings that it has."""
    kind = MODELS[name].model_class()
    known = {f.name: getattr(d, f.name) for d in (kind.model_defaults, kind.train_defaults) if d for f in fields(d)}
    options = {key: value for key, value in QUICK.items() if key in known}
    if isinstance(known.get("hidden"), tuple):
        options["hidden"] = (options["hidden"],)
    return kind(seed=1, device="cpu", **{**options, **more})
