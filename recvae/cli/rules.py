"""The items that a list may hold: --allow, --deny, --allow-tag and --deny-tag, from words to columns."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from recvae.cli.items import nearest_id
from recvae.cli.terminal import Terminal
from recvae.errors import InputError, did_you_mean, listed

if TYPE_CHECKING:
    from recvae.recommender import Recommender

COLUMNS = ("item", "item_id")  # of a file of ids: as in histories, and as in the lists and folders that recvae writes


@dataclass(frozen=True)
class Rules:
    """The rules of a query, item columns or None each, and the words that asked for them, for a JSON document."""

    allow: list[int] | None = None
    deny: list[int] | None = None
    asked: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Words:
    """The options as the command line has them."""

    allow: Sequence[str] | None
    deny: Sequence[str] | None
    allow_tag: Sequence[str] | None
    deny_tag: Sequence[str] | None
    dataset: Path | None

    def inputs(self) -> list[str | Path | None]:
        """Return the paths that are read, and ids, which are no files."""
        return [*(self.allow or ()), *(self.deny or ()), self.dataset]

    def rules(self, terminal: Terminal, model: "Recommender", run: Path, *columns: str) -> Rules:
        """Return the rules that these options are for a model, the model of the folder ``run``.

        An item is listed that --allow names, where it is given, and that has a tag of --allow-tag, where it is given,
        and that neither --deny names nor a tag of --deny-tag marks. A file's ids are in the first of ``columns``, else
        in the first of :data:`COLUMNS`, that it has. Raises :class:`InputError` for an item, a tag or a folder that
        cannot be used.
        """
        given = {"allow": self.allow, "deny": self.deny, "allow_tag": self.allow_tag, "deny_tag": self.deny_tag}
        asked = {option: list(values) for option, values in given.items() if values}
        sets: dict[str, list[set[int]]] = {"allow": [], "deny": []}
        for option in sets:
            if option in asked:
                sets[option].append(_named(terminal, model, option, asked[option], columns))
        for option, found in self._tagged(model, run, asked).items():
            sets[option.removesuffix("_tag")].append(found)
        return Rules(
            allow=sorted(set.intersection(*sets["allow"])) if sets["allow"] else None,
            deny=sorted(set.union(*sets["deny"])) if sets["deny"] else None,
            asked=asked,
        )

    def _tagged(self, model: "Recommender", run: Path, asked: dict[str, list[str]]) -> dict[str, set[int]]:
        """Return the columns of the items that have one of the tags, for each option about tags that is set."""
        from data_prep.dataset import Dataset
        from recvae.cli.evaluate import refuse_other_catalogue

        wanted = {option: asked[option] for option in ("allow_tag", "deny_tag") if option in asked}
        if not wanted:
            if self.dataset is not None:
                raise InputError("--dataset is read for the tags of --allow-tag and --deny-tag alone: leave it out.")
            return {}
        if self.dataset is None:
            raise InputError(
                f"--{next(iter(wanted)).replace('_', '-')} needs the tags of the items, which {run} does not hold: "
                "name the dataset folder that the model was trained on with --dataset DIR."
            )
        data = Dataset.load(self.dataset)
        refuse_other_catalogue(model, run, data, self.dataset)
        of_tag: dict[str, set[int]] = {}
        for column, item in enumerate(model.items.ids):
            for tag in data.item_tags.get(item, ()):
                of_tag.setdefault(tag, set()).add(column)
        if not of_tag:
            raise InputError(
                f"{self.dataset} has no item tags. Prepare it again with --titles FILE that has tags in its third "
                "column."
            )
        for tag in (tag for tags in wanted.values() for tag in tags if tag not in of_tag):
            known = listed(sorted(of_tag), most=40)
            raise InputError(f"No item has the tag '{tag}'.{did_you_mean(tag, of_tag)} {self.dataset} has {known}.")
        return {option: set.union(*(of_tag[tag] for tag in tags)) for option, tags in wanted.items()}


def _named(
    terminal: Terminal, model: "Recommender", option: str, values: Sequence[str], columns: Sequence[str]
) -> set[int]:
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


def _of_file(terminal: Terminal, model: "Recommender", option: str, file: str, columns: Sequence[str]) -> Sequence[int]:
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
