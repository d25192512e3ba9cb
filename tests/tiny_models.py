"""Networks whose weights need no generator, and one so small that log p(x) can be computed."""

import oracles
import torch

from recvae.models.mult import MultVAENetwork, MultVAEOptions


def fix_weights(network, scale=0.4):
    """Give every parameter values that need no generator."""
    with torch.no_grad():
        for n, parameter in enumerate(network.parameters()):
            parameter.copy_(torch.from_numpy(oracles.fixed(*parameter.shape, scale=scale, phase=n)))
    return network


def tiny(items, **options):
    """A Mult-VAE of one latent dimension, in float64, without corruption and with a constant beta of 1."""
    plain = {"hidden": (), "latent": 1, "dropout": 0.0, "beta_cap": 1.0, "anneal": "constant", **options}
    return fix_weights(MultVAENetwork(items, MultVAEOptions(**plain)).double(), scale=0.8)


def layers(network):
    """The encoder's and the decoder's layers of a Mult-VAE, each (W, b) as the oracles have them."""
    first, *inner = network.first, *network.encoder
    encoder = [(array(first.weight).T, array(first.bias)), *((array(m.weight), array(m.bias)) for m in inner)]
    return encoder, [(array(m.weight), array(m.bias)) for m in network.decoder]


def array(tensor):
    return tensor.detach().double().numpy()
