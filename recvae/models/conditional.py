"""The conditional VAE: Mult-VAE under conditions, tags of items and attributes of users, p(x | z, c) and q(z | x, c).

Sohn, Lee and Yan, NeurIPS 2015, condition a VAE's encoder and decoder; Carraro, Polato and Aiolli 2020 (C-VAE, arXiv
2004.11141) condition Mult-VAE on categories of items: the input is the whole history, the target the user's clicks on
items of the category. docs/differences.md lists the differences from them.

Notation: c is a user's conditions, 0 or 1, first T tags of items and then A values of user attributes, C = T + A.

    encoder's first layer: x W + b + c E;    logits: h(z) W' + b' + c V;    p(z) = N(0, 1).

A condition adds biases, E (C, H) of the first layer's units and V' (I, C) of the items: they start at 0, so that a
condition has no effect before training, and are left out of the L2 term as biases are. Without conditions the model is
Mult-VAE.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from recvae import defaults
from recvae.arguments import Frame, is_frame, items, shown
from recvae.capabilities import HeldOut, Part, Prepared
from recvae.errors import DataError, InputError, did_you_mean
from recvae.files import JsonObject
from recvae.models.mult import MultVAENetwork, MultVAEOptions
from recvae.models.neural import NeuralRecommender
from recvae.nn.batches import Batch
from recvae.nn.kernels import gathered_sum
from recvae.nn.network import Loss
from recvae.nn.noise import Noise
from recvae.nn.shards import Items, items_here
from recvae.options import Between, OfEveryModel, option, takes
from recvae.training.loop import TrainOptions
from recvae.training.vocabulary import Naming

STEP = 10.0  # V's step of Adam is so many times other weights': few users of a batch have a tag


@dataclass(frozen=True, kw_only=True)
class ConditionalVAEOptions(MultVAEOptions):
    """Options of the conditional VAE: Mult-VAE's, and the choice of conditions."""

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
    """Mult-VAE with ``n_conditions`` conditions, which a batch carries; a batch without any is Mult-VAE's.

    Before training, :meth:`learn_from` sets the conditions of items and users.
    """

    options: ConditionalVAEOptions
    item_tags: Tensor | None
    user_attributes: Tensor | None

    def __init__(self, n_items: Items, options: ConditionalVAEOptions, seed: int = 0, n_conditions: int = 0) -> None:
        super().__init__(n_items, options, seed)
        self.n_conditions = n_conditions
        self.register_buffer("item_tags", None, persistent=False)  # a table (I, T) of 0 and 1
        self.register_buffer("user_attributes", None, persistent=False)
        if n_conditions:
            self.of_input = nn.Parameter(torch.zeros(n_conditions, self.first.weight.shape[1]))  # E
            self.of_items = nn.Parameter(torch.zeros(items_here(n_items), n_conditions))  # V' / STEP

    def item_axes(self) -> dict[str, int]:
        return super().item_axes() | ({"of_items": 0} if self.n_conditions else {})

    def learn_from(self, item_tags: tuple[Tensor, Tensor] | None, user_attributes: Tensor | None) -> None:
        """Set the conditions of items and of training users, which are freed after training.

        ``item_tags``: offsets (I + 1,) and columns of c, int64: item i has the conditions ``columns[offsets[i] :
        offsets[i + 1]]``. ``user_attributes`` (n_users, A'), int64: each user's conditions, rows filled up with C.

        The tags are kept as a table (I, T) of two bytes a cell, at most half the size of V, however many tags an item
        has: a user's tags are then a sum of gathered rows, as in a first layer, whose size is known without waiting for
        the device.
        """
        device = self.first.weight.device
        self.item_tags = None
        if item_tags is not None:
            offsets, columns = item_tags
            n_tags = int(columns.max()) + 1 if len(columns) else 1
            table = torch.zeros(self.n_items, n_tags, dtype=torch.bfloat16)
            table[torch.repeat_interleave(torch.arange(self.n_items), offsets.diff()), columns] = 1
            shard = self.first.shard
            self.item_tags = (table if shard is None else table[shard.columns]).to(device)
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

    def logits_at(self, batch: Batch, items: Tensor) -> Tensor:
        logits = super().logits_at(batch, items)
        return logits if batch.conditions is None else logits + self._asked(batch, logits) @ self.of_items[items].T

    def item_vectors(self) -> Tensor:
        own = super().item_vectors()
        return torch.cat((own, self.of_items), dim=1) if self.n_conditions else own

    def user_vectors(self, batch: Batch) -> Tensor:
        own = super().user_vectors(batch)
        return own if batch.conditions is None else torch.cat((own, self._asked(batch, own)), dim=1)

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
        """Return the input of an update, all clicks with drawn conditions, and its target, as batches.

        For each user one tag of the user's clicked items is drawn, all with the same probability, and in the target
        the clicks on items without the tag have the value 0; with probability ``unconditioned`` there is no tag. The
        user's attributes are conditions too, but with probability ``attribute_dropout`` all are left out. Nothing here
        waits for the device.
        """
        o, n_users = self.options, len(batch)
        width = self.n_conditions + 1  # the last column takes the values that fill up rows
        conditions, values = batch.values.new_zeros(n_users, width), batch.values
        everyone = torch.ones_like(conditions[:, 0])
        if self.item_tags is not None:
            every = self.item_tags.new_ones(len(batch.columns))
            # Rounded; zero stays zero.
            counts = batch.joined(gathered_sum(self.item_tags, batch.columns, batch.offsets, every).float())
            has = torch.zeros(n_users, width, dtype=torch.bool, device=values.device)
            has[:, : counts.shape[1]] = counts > 0
            chosen = noise.normal(conditions).masked_fill_(~has, -torch.inf).argmax(1)  # 0 for a user without tags
            asks = noise.users_kept(everyone, o.unconditioned) & has.any(1)
            conditions.scatter_(1, chosen[:, None], asks[:, None].to(conditions.dtype))
            # A user without any tag gets no tag, whatever was drawn.
            wanted = (self.item_tags[batch.columns, chosen[batch.rows]] > 0) | ~asks[batch.rows]
            values = values * wanted
        if self.user_attributes is not None:
            kept = noise.users_kept(everyone, o.attribute_dropout)
            of_users = self.user_attributes[batch.users]  # (B, A')
            conditions.scatter_(1, of_users, kept[:, None].to(conditions.dtype).expand(of_users.shape))
        given = replace(batch, conditions=conditions[:, :-1].contiguous())
        return given, given.with_values(values)

    def _asked(self, batch: Batch, like: Tensor) -> Tensor:
        """Return a batch's conditions as inputs of the last layer, (B, C)."""
        assert batch.conditions is not None
        return STEP * batch.conditions.to(like.dtype)


Attributes = Sequence[Mapping[str, str]]
Columns = list[list[int]]  # the columns of each item's or user's conditions


@dataclass(frozen=True, kw_only=True)
class ConditionalVAEArguments(ConditionalVAEOptions, TrainOptions, OfEveryModel):
    """The arguments of ConditionalVAE: its options, those of training, seed and device."""


class ConditionalVAE(NeuralRecommender):
    """Mult-VAE that ranks under conditions: wanted item tags, and attributes of the user; Carraro et al. 2020.

    ``condition_names``: tags as in the data ("Comedy"), then attributes ("gender=F").
    """

    name = "conditional-vae"
    in_parts = True
    contends = False  # it needs more than clicks
    model_defaults = ConditionalVAEOptions()
    train_defaults = TrainOptions(epochs=200, learning_rate=1e-3)
    follows: ClassVar[defaults.Rule] = defaults.MULT
    build = ConditionalVAENetwork
    network: ConditionalVAENetwork
    _given: Attributes | None = None  # what fit was given of the users
    _tables: tuple[Columns | None, Columns | None] = (None, None)

    @takes(ConditionalVAEArguments)
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)

    @property
    def options(self) -> ConditionalVAEOptions:
        """The model's options."""
        return self.config.options(ConditionalVAEOptions)

    def fit(self, train: csr_array | Frame, *, user_attributes: Attributes | None = None, **more: Any) -> Self:
        """Train as :meth:`NeuralRecommender.fit` does, on conditions too.

        Without ``item_tags`` no tag is a condition. ``user_attributes``: for each row of
        ``train`` the user's attributes by name; ``model.user_attributes`` lists the ones that are used. Raises
        :class:`InputError` for an attribute that no user has, where no tag has ``model.min_items`` items, and for
        attributes beside a data frame, whose users are in an order of their own.
        """
        if user_attributes is not None and is_frame(train):
            raise InputError("user_attributes are one for each row of a matrix: give the clicks as a matrix too.")
        self._given = None if user_attributes is None else _checked_attributes(user_attributes)
        try:
            return super().fit(train, **more)
        finally:
            self._given, self._tables = None, (None, None)

    def _begin_fit(self, train: csr_array | Frame, naming: Naming) -> csr_array:
        matrix = super()._begin_fit(train, naming)
        options, user_attributes = self.options, self._given
        tags = self._tags() if options.item_tags and naming.item_tags is not None else []
        values = self._values(user_attributes, matrix.shape[0]) if options.user_attributes else []
        self.condition_names = (*tags, *values)
        place = {name: column for column, name in enumerate(self.condition_names)}
        if len(place) < len(self.condition_names):
            both = next(name for column, name in enumerate(self.condition_names) if place[name] != column)
            if both in tags:
                raise InputError(f"An item tag is called '{both}', and a user attribute too. Rename one of them.")
            raise InputError(f"Two attributes of users both make the condition '{both}'. Rename one of them.")
        of_items = of_users = None
        if tags:
            known = set(tags)
            named = [[tag for tag in of_item if tag in known] for of_item in self.items.tags]
            of_items = _columns(named, place)
        if values:
            of_users = _columns([self._names(row) for row in user_attributes or ()], place)
        self._tables = of_items, of_users
        return matrix

    def _tags(self) -> list[str]:
        """Return the tags that enough items of the catalogue have, in order."""
        counts = Counter(tag for of_item in self.items.tags for tag in of_item)
        least = self.options.min_items
        tags = sorted(tag for tag, count in counts.items() if count >= least)
        if not tags:
            raise InputError(
                f"No item tag has {least} items (there are {len(counts)} tags in the catalogue), so there is nothing "
                "to condition on. Use a smaller model.min_items, or model.item_tags=false."
            )
        return tags

    def _values(self, user_attributes: Attributes | None, n_users: int) -> list[str]:
        """Return the names of the attributes' values, attribute by attribute."""
        wanted = self.options.user_attributes
        twice = [name for n, name in enumerate(wanted) if name in wanted[:n]]
        if twice:
            raise InputError(f"model.user_attributes lists '{twice[0]}' twice. Name each attribute once.")
        if user_attributes is None:
            raise InputError(f"model.user_attributes lists {', '.join(wanted)}; give fit the users' attributes too.")
        if len(user_attributes) != n_users:
            raise DataError(f"There are attributes of {len(user_attributes)} users for {n_users} rows of clicks.")
        known = sorted({name for row in user_attributes for name in row})
        for name in wanted:
            if name not in known:
                there = f"there are {', '.join(known)}" if known else "there are none at all"
                raise InputError(f"No user has an attribute '{name}'; {there}.{did_you_mean(name, known)}")
        return [f"{name}={v}" for name in wanted for v in sorted({r[name] for r in user_attributes if r.get(name)})]

    def _names(self, attributes: Mapping[str, str]) -> list[str]:
        """Return a user's conditions; an unknown attribute gives none."""
        return [f"{name}={attributes[name]}" for name in self.options.user_attributes if attributes.get(name)]

    @classmethod
    def reads(cls, options: Any) -> tuple[Part, ...]:
        parts: tuple[tuple[Part, Any], ...] = (("item_tags", options.item_tags), ("user_tags", options.user_attributes))
        return tuple(part for part, read in parts if read)

    def training_inputs(self, data: Prepared, *, refit: bool = False) -> JsonObject:
        """Return the arguments of :meth:`fit`, the users' attributes among them."""
        options, inputs = self.options, super().training_inputs(data, refit=refit)
        if options.item_tags and not data.item_tags:
            raise InputError(
                f"{data.path or data.name} has no item tags to condition on. Prepare it again with --titles FILE "
                "that has tags in its third column, or train without them: --set model.item_tags=false"
            )
        if options.user_attributes:
            splits = ("train", "validation") if refit else ("train",)  # the rows of refit_matrix
            users = dict.fromkeys(user for split in splits for user in data.user_ids(split))
            inputs["user_attributes"] = _attributes_of(users, data)
        return inputs

    def held_out_inputs(self, data: Prepared, split: str) -> HeldOut:
        """Return the users of a split, with the conditions that their attributes are once the model is fitted."""
        users = super().held_out_inputs(data, split)
        if not self.options.user_attributes:
            return users
        attributes = _attributes_of(data.user_ids(split), data)
        if not self.condition_names:
            return users
        return users._replace(query=users.query.under(conditions=self.conditions_of(attributes)))

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attributes of users that the model has conditions of."""
        return tuple(self.options.user_attributes)

    def conditions_of(self, user_attributes: Attributes) -> csr_array | None:
        """Return users' attributes as conditions, CSR (n, C); None for a model without attributes.

        A value that no training user had counts as unknown.
        """
        if not self.options.user_attributes:
            return None
        known = set(self.condition_names)
        return self.encode_conditions([[n for n in self._names(row) if n in known] for row in user_attributes])

    def given(self) -> Iterator[bytes]:
        """Yield names and tables of the conditions; rows are filled up, as in the digests of earlier versions."""
        if not self.condition_names:
            return
        yield repr(self.condition_names).encode()
        for table in self._tables:
            yield b"\n"
            yield from (b"None",) if table is None else _written(table, len(self.condition_names))

    def _bare_network(self) -> ConditionalVAENetwork:
        return ConditionalVAENetwork(self._items(), self.options, self.config.seed, len(self.condition_names))

    def _prepare(self, matrix: csr_array) -> None:
        of_items, of_users = self._tables
        tags = attributes = None
        if of_items is not None:
            ends = torch.tensor([0, *map(len, of_items)]).cumsum(0)
            tags = ends, torch.tensor([column for row in of_items for column in row], dtype=torch.int64)
        if of_users is not None:  # rows are short: one column for each attribute
            width, rest = max(map(len, of_users)), len(self.condition_names)
            attributes = torch.tensor([[*row, *[rest] * (width - len(row))] for row in of_users], dtype=torch.int64)
        self.network.learn_from(tags, attributes)


def _attributes_of(users: Iterable[str], data: Prepared) -> list[Mapping[str, str]]:
    """Return the attributes of each user, none for an unknown one; :class:`InputError` where nobody has any."""
    if not data.user_tags:
        raise InputError(
            f"{data.path or data.name} has no user attributes to condition on. Prepare it again with --user-tags FILE, "
            "or train without model.user_attributes."
        )
    return [data.user_tags.get(user, {}) for user in users]


def _checked_attributes(user_attributes: Attributes) -> Attributes:
    """Return attributes of users; raise :class:`InputError` where they are not texts by name for each user."""
    rows = items("user_attributes", user_attributes)
    for row in rows:
        if not isinstance(row, Mapping) or not all(isinstance(text, str) for pair in row.items() for text in pair):
            raise InputError(f"A user's attributes are texts by name, a dict, and not {shown(row)}.")
    return rows


def _columns(rows: Sequence[Sequence[str]], place: Mapping[str, int]) -> Columns:
    """Return the columns of the names of each row, each once."""
    return [[place[name] for name in dict.fromkeys(row)] for row in rows]


def _written(table: Columns, rest: int) -> Iterator[bytes]:
    """Yield the text of a table whose rows are filled up with ``rest`` to the longest one, row by row."""
    width = max(map(len, table))
    for place, row in enumerate(table):
        filled = [*row, *[rest] * (width - len(row))]
        yield f"{', ' if place else '['}{filled}".encode()
    yield b"]"
