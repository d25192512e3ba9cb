"""The choices of filters and split, checked before any work, and the manifest's entries on them."""

from dataclasses import dataclass, replace

from data_prep.moments import moment
from data_prep.splits import LIANG_SEED, TIME, check_method, check_seed, default_held_out_users
from data_prep.time_split import CUTOFF, FIRST_CLICKS, VALIDATION_SHARE, Cuts, TimeRules
from recvae.arguments import flag, real_number, whole_number
from recvae.errors import InputError
from recvae.files import JsonObject

_HELD_OUT_SHARE = 0.2  # the default, which the time split does not read


@dataclass(frozen=True)
class Choices:
    """Filters and split; :func:`data_prep.pipeline.prepare` says what they mean.

    Raises :class:`InputError` for a value that cannot be used.
    """

    min_rating: float | None = None
    min_items_per_user: int = 5
    min_users_per_item: int = 0
    k_core: bool = False
    split: str = "strong"
    held_out_users: int | None = None
    held_out_share: float = _HELD_OUT_SHARE
    seed: int = LIANG_SEED
    ratings: bool = False
    cutoff: object = None
    validation_share: float | None = None
    first_clicks: int | None = None

    def __post_init__(self) -> None:
        items = whole_number("The minimum number of items per user", self.min_items_per_user, least=0)
        users = whole_number("The minimum number of users per item", self.min_users_per_item, least=0)
        held_out = self.held_out_users
        if held_out is not None:
            held_out = whole_number("The number of held-out users", held_out, least=1)
        checked = {
            "min_rating": check_min_rating(self.min_rating),
            "min_items_per_user": items,
            "min_users_per_item": users,
            "k_core": flag("k_core", self.k_core),
            "held_out_users": held_out,
            "held_out_share": real_number("The held-out share", self.held_out_share),
            "seed": check_seed(self.seed),
            "ratings": flag("ratings", self.ratings),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.split == TIME:
            self._check_time()
        else:
            check_method(self.split, self.held_out_share, self.held_out_users)
            self._refuse_options_of_time()
        if self.ratings and self.split != "strong":
            raise InputError(
                f"Ratings are kept for the strong split alone: leave --ratings or --split {self.split} out."
            )

    @property
    def needs_time(self) -> bool:
        """Whether the split reads the times of the clicks."""
        return self.split in ("last-out", "temporal", TIME)

    @property
    def time_rules(self) -> TimeRules:
        """The rules of a time split."""
        return TimeRules(
            cutoff=moment(CUTOFF if self.cutoff is None else self.cutoff),
            validation_share=VALIDATION_SHARE if self.validation_share is None else self.validation_share,
            first_clicks=FIRST_CLICKS if self.first_clicks is None else self.first_clicks,
            min_items_per_user=self.min_items_per_user,
            min_users_per_item=self.min_users_per_item,
            k_core=self.k_core,
        )

    def _check_time(self) -> None:
        """Raise :class:`InputError` for rules of a time split that cannot be used; the moment is read here."""
        if self.held_out_users is not None or self.held_out_share != _HELD_OUT_SHARE:
            raise InputError(
                "The time split holds out what lies after the cutoff: leave the number and the share of held-out users "
                "out, and choose --cutoff, --validation-share and --first-clicks."
            )
        _ = self.time_rules  # checks the others

    def _refuse_options_of_time(self) -> None:
        options = {"cutoff": self.cutoff, "validation-share": self.validation_share, "first-clicks": self.first_clicks}
        given = [f"--{name}" for name, value in options.items() if value is not None]
        if given:
            raise InputError(
                f"Name --split time too, or leave out {', '.join(given)}: other splits have no such option."
            )

    def for_users(self, n_users: int, known: int | None = None) -> "Choices":
        """Return the choices with a number of held-out users: the one given, a dataset's ``known`` one, or a tenth."""
        if self.split != "strong" or self.held_out_users is not None:
            return self
        return replace(self, held_out_users=default_held_out_users(n_users) if known is None else known)

    def about(
        self, source: JsonObject, before_split: dict[str, int], dropped: dict[str, int], cuts: Cuts | None = None
    ) -> JsonObject:
        """Return the manifest's entries on source, filters, protocol and counts; ``cuts`` are those of a time split."""
        protocol: JsonObject
        if cuts is None:
            share = None if self.split == "last-out" else self.held_out_share
            protocol = {"held_out_users": self.held_out_users, "held_out_share": share, "seed": self.seed}
        else:
            rules = self.time_rules
            protocol = {
                "cutoff": rules.cutoff.text,
                "validation_share": rules.validation_share,
                "first_clicks": rules.first_clicks,
                "validation_from": cuts.validation,
                "test_from": cuts.test,
                "latest": cuts.latest,
            }
        return {
            "source": source,
            "filters": {
                "min_rating": self.min_rating,
                "min_items_per_user": self.min_items_per_user,
                "min_users_per_item": self.min_users_per_item,
                "k_core": self.k_core,
            },
            "protocol": {"split": self.split, **protocol},
            "before_split": before_split,
            "dropped": dropped,
        }


def check_min_rating(min_rating: object) -> float | None:
    """Return a minimum as a float, None where there is none; raise :class:`InputError` if it is no finite number."""
    return None if min_rating is None else real_number("The minimum rating", min_rating)


def check_name(name: str | None) -> None:
    """Raise :class:`InputError` for a dataset's name that cannot be shown on a line."""
    if name is not None and not (name.strip() and name.isprintable() and len(name) <= 200):
        raise InputError(
            f"The name {name[:200]!r} cannot be used: at most 200 characters that can be printed, not blank."
        )
