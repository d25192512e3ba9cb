"""The conditional VAE: Mult-VAE that is told what is wanted and who asks, p(x | z, c) and q(z | x, c).

Sohn, Lee and Yan, NeurIPS 2015, condition a VAE's encoder and decoder; Carraro, Polato and Aiolli 2020 (C-VAE, arXiv
2004.11141) condition Mult-VAE on categories of items: the whole history goes in, the user's clicks of the category are
to come out. docs/differences.md says where this departs from them.

Notation: c is a user's conditions, 0 or 1, first T tags of items and then A values of user attributes, C = T + A.

    encoder's first layer: x W + b + c E;    logits: h(z) W' + b' + c V;    p(z) = N(0, 1).

What a condition adds are biases, E (C, H) of the first layer's units and V' (I, C) of the items: they start at 0, so
that a condition means nothing before training, and are left out of the L2 term as biases are. Without conditions
nothing of all this exists, and the model is Mult-VAE.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from recvae.batches import Batch
from recvae.models.base import Loss
from recvae.models.mult import MultVAENetwork, MultVAEOptions
from recvae.noise import Noise
from recvae.options import Between, option
from recvae.products import gathered_sum

STEP = 10.0  # a step of Adam moves V so much further than other weights: a tag is seen by few users of a batch


@dataclass(frozen=True, kw_only=True)
class ConditionalVAEOptions(MultVAEOptions):
    """Options of the conditional VAE: Mult-VAE's, and what is conditioned on."""

    item_tags: bool = option(True, "Condition on the tags of items, such as genres.")
    min_items: int = option(10, "Tags of fewer items are no conditions.", ge=1)
    user_attributes: tuple[str, ...] = option((), "Attributes of users to condition on, such as gender or age.")
    unconditioned: float = option(
        0.5, "Share of users who ask for no tag, in an update.", search=Between(0.1, 0.8), ge=0, le=1
    )
    attribute_dropout: float = option(
        0.3, "Share of users whose attributes are hidden, in an update, so that unknown ones are normal.", ge=0, le=1
    )


class ConditionalVAENetwork(MultVAENetwork):
    """Mult-VAE with ``n_conditions`` conditions, which a batch carries; a batch without any asks for nothing.

    Before training, :meth:`learn_from` says what the conditions of items and users are.
    """

    options: ConditionalVAEOptions
    item_tags: Tensor | None
    user_attributes: Tensor | None

    def __init__(self, n_items: int, options: ConditionalVAEOptions, seed: int = 0, n_conditions: int = 0) -> None:
        super().__init__(n_items, options, seed)
        self.n_conditions = n_conditions
        self.register_buffer("item_tags", None, persistent=False)  # a table (I, T) of 0 and 1
        self.register_buffer("user_attributes", None, persistent=False)
        if n_conditions:
            self.of_input = nn.Parameter(torch.zeros(n_conditions, self.first.weight.shape[1]))  # E
            self.of_items = nn.Parameter(torch.zeros(n_items, n_conditions))  # V' / STEP

    def learn_from(self, item_tags: tuple[Tensor, Tensor] | None, user_attributes: Tensor | None) -> None:
        """Take the conditions of items and of training users, which are let go of after training.

        ``item_tags``: offsets (I + 1,) and columns of c, int64: item i stands for ``columns[offsets[i] : offsets[i +
        1]]``. ``user_attributes`` (n_users, A'), int64: the columns of c that a user stands for, filled up with C.

        The tags are kept as a table (I, T) of two bytes a cell, at most half of what V has, however many tags one item
        may have: what a user's clicks stand for is then the sum of gathered rows, as in a first layer, and its size is
        known without asking the device.
        """
        device = self.first.weight.device
        self.item_tags = None
        if item_tags is not None:
            offsets, columns = item_tags
            n_tags = int(columns.max()) + 1 if len(columns) else 1
            table = torch.zeros(self.n_items, n_tags, dtype=torch.bfloat16)
            table[torch.repeat_interleave(torch.arange(self.n_items), offsets.diff()), columns] = 1
            self.item_tags = table.to(device)
        self.user_attributes = None if user_attributes is None else user_attributes.to(device)

    def release(self) -> None:
        super().release()
        self.learn_from(None, None)

    def first_layer(self, batch: Batch, noise: Noise | None = None) -> Tensor:
        h = super().first_layer(batch, noise)
        return h if batch.conditions is None else h + batch.conditions.to(h.dtype) @ self.of_input

    def logits(self, batch: Batch) -> Tensor:
        logits = super().logits(batch)
        return logits if batch.conditions is None else logits + self._asked(batch, logits) @ self.of_items.T

    def log_likelihood(self, code: Tensor, batch: Batch) -> Tensor:
        if batch.conditions is None:
            return super().log_likelihood(code, batch)
        last = self.output
        code = torch.cat((code, self._asked(batch, code)), dim=1)  # one last layer, on code and conditions side by side
        weight = torch.cat((last.weight, self.of_items), dim=1)
        return self.likelihood(code, weight, last.bias, batch, last.memory)

    def loss(self, phase: str, batch: Batch, beta: float, noise: Noise) -> Loss:
        if not self.n_conditions:
            return super().loss(phase, batch, beta, noise)
        given, target = self.asked_for(batch, noise)
        return self.bound(given, target, beta, noise)

    def asked_for(self, batch: Batch, noise: Noise) -> tuple[Batch, Batch]:
        """Return what goes in, all clicks with the conditions drawn, and what is to come out, as batches.

        A user asks for one tag of the user's own clicks, any with the same probability, and the clicks of other items
        get the value 0 in what is to come out; or, with probability ``unconditioned``, for none. The user's attributes
        are told, or with probability ``attribute_dropout`` none of them. Nothing here waits for the device.
        """
        o, n_users, width = self.options, len(batch), self.n_conditions + 1  # the last column takes what fills up rows
        conditions, values = batch.values.new_zeros(n_users, width), batch.values
        everyone = torch.ones_like(conditions[:, 0])
        if self.item_tags is not None:
            every = self.item_tags.new_ones(len(batch.columns))
            counts = gathered_sum(self.item_tags, batch.columns, batch.offsets, every)  # rounded, and 0 where it is 0
            has = torch.zeros(n_users, width, dtype=torch.bool, device=values.device)
            has[:, : counts.shape[1]] = counts > 0
            chosen = noise.normal(conditions).masked_fill_(~has, -torch.inf).argmax(1)  # 0 for a user without tags
            asks = noise.kept(everyone, o.unconditioned) & has.any(1)
            conditions.scatter_(1, chosen[:, None], asks[:, None].to(conditions.dtype))
            # A user without any tag asks for none, whatever was chosen.
            wanted = (self.item_tags[batch.columns, chosen[batch.rows]] > 0) | ~asks[batch.rows]
            values = values * wanted
        if self.user_attributes is not None:
            told = noise.kept(everyone, o.attribute_dropout)
            of_users = self.user_attributes[batch.users]  # (B, A')
            conditions.scatter_(1, of_users, told[:, None].to(conditions.dtype).expand(of_users.shape))
        given = replace(batch, conditions=conditions[:, :-1].contiguous())
        return given, replace(given, values=values)

    def _asked(self, batch: Batch, like: Tensor) -> Tensor:
        """Return a batch's conditions as they enter the last layer, (B, C)."""
        assert batch.conditions is not None
        return STEP * batch.conditions.to(like.dtype)
