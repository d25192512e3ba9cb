"""The loss of an update and its gradients: of a whole batch, or of the portions of several processes together."""

from dataclasses import replace

import torch

from recvae.nn.batches import Batch
from recvae.nn.network import Loss, Network
from recvae.nn.noise import Noise
from recvae.nn.portions import PortionNoise


def loss_and_gradients(network: Network, phase: str, batch: Batch, beta: float, noise: Noise) -> Loss:
    """Return the loss of a batch, and put its gradients into the parameters that need them.

    Where the batch is a portion, loss and gradients are those of the whole batch in all processes, to rounding.
    """
    portion = batch.portion
    if portion is None:
        loss = network.loss(phase, batch, beta, noise)
        loss.total.backward()  # type: ignore[no-untyped-call]  # torch ships it without types
        return loss
    loss = network.loss(phase, batch, beta, PortionNoise(noise, portion))
    (loss.total * portion.share).backward()  # type: ignore[no-untyped-call]  # torch ships it without types
    kl = loss.nll.new_zeros(()) if loss.kl is None else loss.kl
    losses = torch.stack((loss.total, loss.nll, kl)).detach() * portion.share
    gradients = {name: value.grad for name, value in network.named_parameters() if value.grad is not None}
    # The layers between are summed as one tensor, which has one length for all parts of the items: so the order of the
    # sums, and with it the bits of these layers, is the same in all processes.
    of_items = network.item_axes()
    between = [losses, *(gradient for name, gradient in gradients.items() if name not in of_items)]
    together = torch.cat([one.flatten() for one in between])
    portion.replicas.add_up([together, *(gradient for name, gradient in gradients.items() if name in of_items)])
    for one, summed in zip(between, torch.split(together, [one.numel() for one in between]), strict=True):
        one.copy_(summed.view_as(one))
    total, nll, kl = losses.unbind()
    return replace(loss, total=total, nll=nll, kl=None if loss.kl is None else kl)


def users_of_all(batch: Batch) -> int:
    """Return the number of users of a batch in all processes, of which its losses are means."""
    return len(batch) if batch.portion is None else batch.portion.n_users
