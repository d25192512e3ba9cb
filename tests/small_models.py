"""Models of every kind that train in a moment, and how to compare what they learned."""

import torch
from conftest import checkerboard

from recvae.registry import MODELS

BOARD = checkerboard()
SETTINGS = {
    "recvae": {"hidden": 12, "latent": 6, "batch_size": 16, "learning_rate": 0.01},
    "mult-vae": {"hidden": (12,), "latent": 6, "batch_size": 16, "anneal_updates": 60},
    "mult-dae": {"latent": 6, "batch_size": 16, "l2": 0.01},
    "vamp-vae": {
        "hidden": 6, "latent": 4, "pseudo_inputs": 5, "batch_size": 16, "anneal": "paper", "anneal_updates": 60,
    },
    "vaeac": {"hidden": 12, "latent": 6, "batch_size": 16},
}  # fmt: skip
KINDS = {name: MODELS[name].model_class() for name in SETTINGS}


def model(name, **more):
    return KINDS[name](**{**SETTINGS[name], "epochs": 6, "seed": 4, "device": "cpu", **more})


def bits(tensors):
    return {name: value.clone() for name, value in tensors.items()}


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
