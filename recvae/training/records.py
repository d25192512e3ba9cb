"""The fields of the JSON in a run folder, declared once and checked by pydantic when a file is read.

A digest proves that a file is as it was written. These records prove that its fields have the right types, so that a
file from elsewhere is refused with a sentence.
"""

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recvae.errors import FormatError
from recvae.files import JsonObject

_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())

Count = Annotated[int, Field(ge=0, lt=2**63)]
Kind = TypeVar("Kind", bound="Record")


class Record(BaseModel):
    """Fields of the declared types and no others."""

    model_config = _STRICT


def checked(kind: type[Kind], value: object, path: Path, remedy: str = "Train again.") -> Kind:
    """Return ``value``, the JSON in ``path``, as a ``kind``; raise :class:`FormatError` where it does not fit."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(map(str, first["loc"])) or "it"
        wrong = {"extra_forbidden": "is not known", "missing": "is missing"}.get(first["type"], "is of another kind")
        raise FormatError(f"{path} was altered, or is another version's: {name[:80]!r} {wrong}. {remedy}") from error


class Later(Record):
    """The versions with which a run was continued, from an epoch on."""

    epoch: Count
    versions: dict[str, str]


class Started(Record):
    """The warm start of a run: the version of the earlier run, and how many items were in both, new, and left out."""

    version: str
    kept_items: Count
    new_items: Count
    dropped_items: Count


class Run(Record):
    """The content of run.json."""

    model: str
    config: JsonObject
    n_items: Count
    vocabulary: str  # hash
    titles: str  # hash
    tags: str | None = None  # hash, where the items have tags; older versions kept none
    versions: dict[str, str]  # at the beginning of the run
    best_epoch: Count | None
    metrics: dict[str, float]
    dataset: JsonObject
    resumed: tuple[Later, ...] = Field((), strict=False)  # each time with other versions
    start: Started | None = None  # where it began from an earlier run's parameters
    sealed: bool = False  # whether the folder has a seal; older versions made none

    def to_dict(self) -> JsonObject:
        """Return plain values, without ``start`` where there was none."""
        return self.model_dump(exclude={"start"} if self.start is None else set())


class ConfigShape(Record):
    """The sections of a configuration; :func:`recvae.config.run_config` checks their options."""

    model_config = ConfigDict(**{**_STRICT, "extra": "ignore"})

    model: JsonObject = {}
    train: JsonObject = {}


class _Refit(Record):
    epoch: Count | None
    metric: str | None
    score: float | None
    users: Count
    clicks: Count


class DatasetFacts(Record):
    """The facts about its dataset that are read from a run; the file may hold more."""

    model_config = ConfigDict(**{**_STRICT, "extra": "ignore"})

    name: str = ""
    validation_metric: str = ""
    refit: _Refit | None = None


class WeightFacts(Record):
    """The facts in the header of a weights file."""

    model: str
    vocabulary: str
    best_epoch: Count | None
    metrics: dict[str, float]
    conditions: list[str] = []
    components: list[dict[Literal["run", "weights"], str]] = []  # of a blend's models
    fixed: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None  # digest of the tensors in a file of their own


class FixedFacts(Record):
    """The facts in the header of a file of fixed tensors: there are none beside the digest."""


class _Phase(Record):
    loss: float
    nll: float
    kl: float = 0.0
    beta: float = 0.0


class Row(Record):
    """One epoch, as an EpochReport has it."""

    epoch: Annotated[Count, Field(ge=1)]
    epochs: Count
    step: Count
    seconds: float
    phases: Annotated[dict[str, _Phase], Field(min_length=1)]
    score: float | None
    best: bool
    best_epoch: Count
    best_score: float | None


class StateValues(Record):
    """The plain values of a resumable state."""

    done: Annotated[Count, Field(ge=1)]
    step: Count
    best_epoch: Count
    best_score: float | None
    since_best: Count
    device: str
    arithmetic: dict[str, str | int] = {}


class StateFacts(Record):
    """The facts in the header of a resumable state."""

    values: StateValues
    rows: list[Row]
    clicks: str
    best_epoch: Count | None
    metrics: dict[str, float]


_Type = Literal["float32", "float64", "int64", "uint8"]


class HeldValues(StateValues):
    """The plain values of a state of several processes."""

    done: Count
    within: JsonObject | None = None


class HeldFacts(StateFacts):
    """The content of held.json: tensors by name with shape and type, and the digests of the files that hold them."""

    values: HeldValues
    processes: Annotated[Count, Field(ge=1)]
    data_parallel: Annotated[Count, Field(ge=1)] = 1  # processes that had the same items
    folder: Annotated[str, Field(pattern="^held-[0-9]+$")]
    files: dict[Annotated[str, Field(pattern=r"^[\w-]+\.safetensors$")], str]
    tensors: dict[str, Annotated[tuple[list[Count], _Type], Field(strict=False)]]
