"""The items that a list may hold: --allow, --deny-tag, --most-per-tag and so on, from words to a query's rules."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from recvae.arguments import need_packages
from recvae.cli.items import nearest_id
from recvae.cli.terminal import Terminal
from recvae.errors import InputError, did_you_mean, listed
from recvae.files import JsonObject

if TYPE_CHECKING:
    from recvae.matrices import Rows
    from recvae.serving.lists.asked import UserTable
    from recvae.serving.model import Model

COLUMNS = ("item", "item_id")  # of a file of ids: as in histories, and as in the lists and folders that recvae writes


@dataclass(frozen=True)
class Rules:
    """The rules of a query for all users, item columns or None each, and the words for a JSON document."""

    allow: list[int] | None = None
    deny: list[int] | None = None
    asked: JsonObject = field(default_factory=dict)


@dataclass(frozen=True)
class Words:
    """The options as the command line has them."""

    allow: Sequence[str] | None
    deny: Sequence[str] | None
    allow_tag: Sequence[str] | None
    deny_tag: Sequence[str] | None
    dataset: Path | None
    most_per_tag: int | None = None
    diversity: float = 0.0
    allow_each: Path | None = None
    deny_each: Path | None = None

    def __post_init__(self) -> None:
        if self.most_per_tag is not None and self.most_per_tag < 1:
            raise InputError(f"--most-per-tag must be at least 1, and is {self.most_per_tag}.")
        if not 0 <= self.diversity <= 1:
            raise InputError(f"--diversity must be a number from 0 to 1, and is {self.diversity:g}.")

    def inputs(self) -> list[str | Path | None]:
        """Return the paths that are read, and ids, which are no files."""
        return [*(self.allow or ()), *(self.deny or ()), self.dataset, self.allow_each, self.deny_each]

    def rules(self, terminal: Terminal, model: "Model", run: Path, *columns: str) -> Rules:
        """Return the rules that these options are for a model, the model of the folder ``run``.

        An item is listed that --allow names, where it is given, and that has a tag of --allow-tag, where it is given,
        and that neither --deny names nor a tag of --deny-tag marks. A file's ids are in the first of ``columns``, else
        in the first of :data:`COLUMNS`, that it has. With --dataset the model's items get the tags of that folder.
        Raises :class:`InputError` for an item, a tag or a folder that cannot be used.
        """
        self._learn_tags(model, run)
        given = {"allow": self.allow, "deny": self.deny, "allow_tag": self.allow_tag, "deny_tag": self.deny_tag}
        asked: JsonObject = {option: list(values) for option, values in given.items() if values}
        sets: dict[str, list[set[int]]] = {"allow": [], "deny": []}
        for option in sets:
            if option in asked:
                sets[option].append(_named(terminal, model, option, asked[option], columns))
        for option in ("allow_tag", "deny_tag"):
            if option in asked:
                tagged = model.items.tagged_with(_tag_columns(model, asked[option]))
                sets[option.removesuffix("_tag")].append(set(tagged.tolist()))
        asked |= {name: value for name, value in self.reranking().items() if value}
        asked |= {name: str(file) for name, file in self._each().items()}
        return Rules(
            allow=sorted(set.intersection(*sets["allow"])) if sets["allow"] else None,
            deny=sorted(set.union(*sets["deny"])) if sets["deny"] else None,
            asked=asked,
        )

    def reranking(self) -> JsonObject:
        """Return the arguments of a query that choose a list from its candidates."""
        return {"most_per_tag": self.most_per_tag, "diversity": self.diversity}

    def each(
        self, terminal: Terminal, model: "Model", users: Sequence[str], rules: Rules, user: str, item: str
    ) -> JsonObject:
        """Return ``allow``, ``deny`` and tags of a query about ``users``: the rules for all, and those for each."""
        found, tables = self.tables(terminal, model, rules, user, item)
        for name, rule in tables.items():
            found[name] = rule.rows(users)
            without = sum(asked not in rule.places for asked in users)
            if name.startswith("allow") and without:
                terminal.warn(
                    f"--allow-each {self.allow_each} has no row for {without:,} of {len(users):,} users: nothing is "
                    "listed for them."
                )
        return found

    def tables(
        self, terminal: Terminal, model: "Model", rules: Rules, user: str, item: str
    ) -> "tuple[JsonObject, dict[str, UserTable]]":
        """Return ``allow`` and ``deny`` for all users, and by the query's field the rules that differ by user.

        ``user`` and ``item`` are the columns of the files. Denied items of all users become a smaller set of allowed
        ones where each user has denied items too, for a query has one of each kind.
        """
        from recvae.serving.lists.asked import UserTable

        found: JsonObject = {"allow": rules.allow, "deny": rules.deny}
        tables: dict[str, UserTable] = {}
        files = self._each()
        if not files:
            return found, tables
        everywhere = set(range(model.n_items)) if rules.allow is None else set(rules.allow)
        everywhere -= set(rules.deny or ())
        narrowed = not (rules.allow is None and rules.deny is None)
        found = {"allow": sorted(everywhere) if narrowed else None, "deny": None}
        for option, file in files.items():
            kind, rule = _of_each(terminal, model, option, file, user, item)
            if (option, kind) == ("allow_each", "item") and narrowed:
                rule = UserTable(rule.users, _only(rule.table, sorted(everywhere)))
            tables[option.removesuffix("_each") + ("_tags" if kind == "tag" else "")] = rule
        return found, tables

    def _each(self) -> dict[str, Path]:
        files = {"allow_each": self.allow_each, "deny_each": self.deny_each}
        return {option: file for option, file in files.items() if file is not None}

    def _learn_tags(self, model: "Model", run: Path) -> None:
        """Give the model's items the tags of --dataset; raise :class:`InputError` where a rule lacks tags."""
        given = {"allow_tag": self.allow_tag, "deny_tag": self.deny_tag, "most_per_tag": self.most_per_tag}
        wanted = [option for option, value in given.items() if value]
        if self.dataset is not None:
            if not wanted and not self._each():
                raise InputError("--dataset is read for the tags of rules such as --allow-tag alone: leave it out.")
            need_packages("--dataset", "scipy", "pandas", "pyarrow", install="recvae")
            from data_prep.dataset import Dataset
            from recvae.cli.catalogues import refuse_other_catalogue

            data = Dataset.load(self.dataset)
            refuse_other_catalogue(model, run, data, self.dataset)
            if not data.item_tags:
                raise InputError(
                    f"{self.dataset} has no item tags. Prepare it again with --titles FILE that has tags in its third "
                    "column."
                )
            model.items = model.items.tagged(data.item_tags)
        if wanted and not model.items.tag_names:
            raise InputError(
                f"--{wanted[0].replace('_', '-')} needs the tags of the items, which {run} does not hold: "
                "name the dataset folder that the model was trained on with --dataset DIR."
            )


def _tag_columns(model: "Model", tags: Sequence[str]) -> list[int]:
    """Return the columns of tags; raise :class:`InputError` for one that no item has, with the nearest."""
    places = {tag: place for place, tag in enumerate(model.items.tag_names)}
    for tag in tags:
        if tag not in places:
            known = f" There are {listed(model.items.tag_names, most=40)}." if places else " No item has any tag."
            raise InputError(f"No item has the tag '{tag}'.{did_you_mean(tag, places)}{known}")
    return [places[tag] for tag in tags]


def _of_each(
    terminal: Terminal, model: "Model", option: str, file: Path, user: str, item: str
) -> "tuple[str, UserTable]":
    """Return "item" or "tag", and the items or tags of each user in a file."""
    import numpy as np

    from data_prep import column_names, read_interactions
    from data_prep.spool import rereadable
    from recvae.matrices import Rows
    from recvae.serving.lists.asked import UserTable

    name = f"--{option.replace('_', '-')} {file}"
    with rereadable(file) as source:
        kind = "tag" if item not in (names := column_names(source)) and "tag" in names else "item"
        data, _ = read_interactions(source, user, "tag" if kind == "tag" else item).without_duplicates()
    if kind == "tag":
        columns = np.array(_tag_columns(model, data.item_ids.tolist()), dtype=np.int64)
    else:
        columns = np.array([model.items.columns.get(text, -1) for text in data.item_ids], dtype=np.int64)
        unknown = data.item_ids[columns < 0].tolist()
        if unknown:
            terminal.warn(f"The model does not know the item {listed(unknown)} of {name}. Skipped.")
    at = data.user, columns[data.item]
    kept = at[1] >= 0
    shape = len(data.user_ids) + 1, len(model.items.tag_names) if kind == "tag" else model.n_items
    table = Rows.of_entries(np.ones(int(kept.sum()), np.float32), at[0][kept], at[1][kept], shape=shape)
    return kind, UserTable(data.user_ids.tolist(), table)


def _only(table: "Rows", columns: Sequence[int]) -> "Rows":
    """Return the entries of rows in some columns."""
    import numpy as np

    from recvae.matrices import Rows

    kept = np.isin(table.indices, columns)
    return Rows.of_entries(table.data[kept], table.row_numbers()[kept], table.indices[kept], shape=table.shape)


def _named(terminal: Terminal, model: "Model", option: str, values: Sequence[str], columns: Sequence[str]) -> set[int]:
    """Return the columns of the items that ids and files name; an id that the model knows is no file."""
    found: set[int] = set()
    for value in values:
        if value in model.items.columns:
            found.add(model.items.columns[value])
        elif _is_file(value):
            found.update(_of_file(terminal, model, option, value, columns))
        else:
            raise InputError(
                f"--{option} '{value}' is neither a file nor the id of an item that the model knows."
                f"{nearest_id(model, value)}"
            )
    return found


def _is_file(value: str) -> bool:
    """Return whether something can be read under this name; a folder is refused by the reader."""
    try:
        return value == "-" or Path(value).exists()
    except (OSError, ValueError):  # longer than any path, a null character
        return False


def _of_file(terminal: Terminal, model: "Model", option: str, file: str, columns: Sequence[str]) -> Sequence[int]:
    """Return the columns of a file's items, and warn of ids that the model does not know."""
    from data_prep import read_ids

    ids = read_ids(file, *columns, *COLUMNS)
    unknown = [item for item in ids if item not in model.items.columns]
    if len(unknown) == len(ids) and option == "allow":
        raise InputError(f"--allow {file} names no item that the model knows: it has {listed(ids)}.")
    if unknown:
        are = "item is" if len(unknown) == 1 else "items are"
        terminal.warn(
            f"{len(unknown):,} {are} not in the model's catalogue, of --{option} {file}: {listed(unknown)}. Skipped."
        )
    return [model.items.columns[item] for item in ids if item in model.items.columns]
