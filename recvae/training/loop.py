"""The training loop: phases, validation, early stopping, exact resume.

The loop prints and writes nothing: progress, best weights and resumable states go to its :class:`Hooks`. It never waits
for the device within a pass; losses and the finiteness flag are read once an epoch.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice

import torch
from torch import Tensor, nn

from recvae.arguments import shown
from recvae.errors import FormatError, InputError, OtherMachineWarning, WorkError
from recvae.files import JsonObject
from recvae.nn.batches import Batch, Clicks, number_of_batches
from recvae.nn.kernels import precision
from recvae.nn.network import Loss, Network, Phase
from recvae.nn.noise import Noise
from recvae.nn.schedules import cosine_rate
from recvae.options import TrainOptions as TrainOptions
from recvae.training.gradients import loss_and_gradients, users_of_all
from recvae.training.meter import Meter
from recvae.training.tensors import Expected, wrong_form
from recvae.training.versions import arithmetic, listed


@dataclass(frozen=True)
class EpochReport:
    """The result of one epoch. ``phases`` has for each phase the losses, as means per user over the epoch."""

    epoch: int  # from 1
    epochs: int
    step: int  # updates so far
    seconds: float
    phases: dict[str, dict[str, float]]
    score: float | None  # the validation metric, where this epoch had a validation
    best: bool  # whether it is the best so far
    best_epoch: int
    best_score: float | None

    def to_dict(self) -> JsonObject:
        """Return plain values for JSON."""
        return asdict(self)


@dataclass
class TrainState:
    """The state of a run after an epoch, as tensors by name and plain values, to continue bit for bit."""

    tensors: dict[str, Tensor]
    values: JsonObject = field(default_factory=dict)
    source: str = "The state"  # its origin, for error sentences


@dataclass(frozen=True)
class Hooks:
    """The functions that the loop calls. ``validate`` scores the network with its present weights: higher is better."""

    validate: Callable[[], float] | None = None
    on_step: Callable[[int, int], None] | None = None  # updates done in this epoch, updates in an epoch
    on_epoch: Callable[[EpochReport], None] | None = None
    keep_best: Callable[[EpochReport], None] | None = None  # called while the network holds the new best weights
    keep_state: Callable[[TrainState, EpochReport], None] | None = None
    keep_within: Callable[[TrainState], None] | None = None  # a state within an epoch, every train.checkpoint_every


def train(
    network: Network,
    clicks: Clicks,
    options: TrainOptions,
    *,
    seed: int,
    hooks: Hooks | None = None,
    state: TrainState | None = None,
) -> EpochReport | None:
    """Train ``network`` on ``clicks`` and return the last epoch's report (None where ``state`` was already finished).

    The network is left with the weights of the last epoch, or with their average if ``options.average`` is set;
    ``hooks.keep_best`` is called with each best network. With ``state`` the run continues after the state's epoch.
    Raises :class:`InputError` for a matrix without users, :class:`FormatError` where ``state`` is of another network,
    and :class:`WorkError` where a loss or a validation score is not finite. Warns with :class:`OtherMachineWarning`
    where ``state`` was made with another number of threads or another processor than this process has.
    """
    if not len(clicks):
        raise InputError("The training matrix has no users.")
    if options.checkpoint_every and (hooks is None or hooks.keep_within is None):
        raise InputError(
            "train.checkpoint_every is for a run folder of processes that torchrun starts, of which there may be one: "
            "torchrun --nproc-per-node 1 -m recvae train"
        )
    loop = _Loop(network, clicks, options, seed, hooks or Hooks())
    if state is not None:
        loop.restore(state)
    report = None
    try:
        while not loop.finished:
            report = loop.epoch()
        loop.exchange_average()
    finally:
        for parameter in network.parameters():
            parameter.requires_grad_(True)
            parameter.grad = None  # an interrupted step leaves gradients
    return report


class _Loop:
    """One training run between two epochs."""

    def __init__(self, network: Network, clicks: Clicks, options: TrainOptions, seed: int, hooks: Hooks) -> None:
        self.network, self.clicks, self.options, self.hooks = network, clicks, options, hooks
        self.noise = Noise(seed, clicks.device)
        self.memories = network.gradient_memories()
        self.phases = network.phases()
        self.optimisers = {phase.name: self._optimiser(phase) for phase in self.phases}
        self.steps_per_pass = number_of_batches(len(clicks), options.batch_size, drop_last=options.drop_last)
        self.steps_per_epoch = self.steps_per_pass * sum(phase.passes for phase in self.phases)
        self.average = [parameter.detach().clone() for parameter in network.parameters()] if options.average else []
        self.within: _Within | None = None  # the place to go on from, where that is within an epoch
        self.order = self.noise.state()  # from which the present pass drew its order
        self.place = (0, 0)  # passes of the phase and batches of the pass that are done
        self.done = 0  # epochs
        self.step = 0  # updates
        self.best_epoch, self.best_score, self.since_best = 0, None, 0  # type: tuple[int, float | None, int]

    def _optimiser(self, phase: Phase) -> torch.optim.Adam:
        """Return an Adam for the phase's parameters; it is used for the whole run.

        The gradient of lambda * sum of squares is 2 lambda w, the term that Adam's coupled weight decay adds.
        """
        l2 = self.network.l2()
        names = {parameter: name for name, parameter in self.network.named_parameters()}
        groups: dict[float, list[nn.Parameter]] = {}
        for parameter in phase.parameters:
            groups.setdefault(2 * l2.get(names[parameter], 0.0), []).append(parameter)
        return torch.optim.Adam(
            [{"params": members, "weight_decay": decay} for decay, members in groups.items()],
            lr=self.options.learning_rate,
            betas=(0.9, self.options.adam_beta2),
            fused=True,
        )

    @property
    def finished(self) -> bool:
        patience = self.options.patience
        return self.done >= self.last_epoch or bool(patience and self.since_best >= patience)

    @property
    def last_epoch(self) -> int:
        return min(self.options.epochs, self.options.stop_after or self.options.epochs)

    def epoch(self) -> EpochReport:
        start = time.perf_counter()
        within, self.within = self.within, None
        losses = {} if within is None else within.losses
        steps = self.step - self.done * self.steps_per_epoch
        for number, phase in enumerate(self.phases):
            if within is not None and number < within.phase:
                continue
            for parameter in self.network.parameters():
                parameter.requires_grad_(False)
            for parameter in phase.parameters:
                parameter.requires_grad_(True)
            meter = Meter(self.clicks.device)
            if within is not None:
                meter.restore(within.meter)
            else:
                with precision(self.options.precision):
                    self.network.begin_phase(phase.name, self.done, self.clicks, self.options.batch_size)
            for batch in self._batches(phase.passes, within):
                with precision(self.options.precision):
                    meter.add(self._update(phase, batch), users_of_all(batch))
                steps += 1
                if self.hooks.on_step is not None:
                    self.hooks.on_step(steps, self.steps_per_epoch)
                every = self.options.checkpoint_every
                if every and self.hooks.keep_within and self.step % every == 0 and steps < self.steps_per_epoch:
                    self.hooks.keep_within(self._state_within(_Within(number, *self.place, losses, meter.values())))
            within = None
            losses[phase.name] = meter.read(phase.name, self.done + 1)
        self.done += 1
        self._update_average()
        return self._close(losses, time.perf_counter() - start)

    @torch.no_grad()
    def _update_average(self) -> None:
        """Update the running average: it is the plain mean at first, so that the first epoch has no extra weight."""
        if self.average:
            share = max(1 - self.options.average, 1 / self.done)
            for mean, parameter in zip(self.average, self.network.parameters(), strict=True):
                mean.lerp_(parameter, share)

    @torch.no_grad()
    def exchange_average(self) -> None:
        """Exchange the network's weights and their average, where there is one."""
        for mean, parameter in zip(self.average, self.network.parameters() if self.average else (), strict=True):
            weights = parameter.clone()
            parameter.copy_(mean)
            mean.copy_(weights)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        self.exchange_average()
        try:
            yield
        finally:
            self.exchange_average()

    def _batches(self, passes: int, within: "_Within | None") -> Iterator[Batch]:
        """Yield all users in ``passes`` random orders, from the place ``within`` on."""
        size, drop_last = self.options.batch_size, self.options.drop_last
        first, done = (0, 0) if within is None else (within.passes, within.batches)
        for number in range(first, passes):
            here = self.noise.state()
            if number > first or within is None:
                self.order, done = here, 0
                batches = self.clicks.shuffled(size, self.noise, drop_last=drop_last)
            else:  # the order of the pass is drawn once more
                self.noise.restore(self.order)
                batches = self.clicks.shuffled(size, self.noise, drop_last=drop_last)
                self.noise.restore(here)
            for batch_number, batch in enumerate(islice(batches, done, None), done + 1):
                self.place = (number, batch_number)
                yield batch

    def _update(self, phase: Phase, batch: Batch) -> Loss:
        total = self.steps_per_epoch * self.options.epochs
        beta = self.network.beta(self.step, total)
        optimiser = self.optimisers[phase.name]
        if self.options.decay == "cosine":
            for group in optimiser.param_groups:
                group["lr"] = self.options.learning_rate * cosine_rate(self.step, total=total)
        loss = loss_and_gradients(self.network, phase.name, batch, beta, self.noise)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)  # so that the gradients' memory is free
        for memory in self.memories:
            memory.reclaim()
        self.step += 1
        return loss

    def _close(self, losses: dict[str, dict[str, float]], seconds: float) -> EpochReport:
        """Validate, keep the best weights, and keep a state to resume from."""
        score, best = None, False
        best_epoch, best_score = self.best_epoch, self.best_score
        scheduled = is_scheduled(self.done, self.options)
        if self.hooks.validate is not None and (scheduled or self.done == self.last_epoch):
            with self._averaged():
                score = _number(self.hooks.validate())
            if not math.isfinite(score):
                raise WorkError(f"The validation metric is {score} at epoch {self.done}, not a finite number.")
            best = best_score is None or score > best_score
        elif self.hooks.validate is None:
            best = scheduled = True  # without validation the latest weights are the ones to keep
        if best:
            best_epoch, best_score = self.done, score
        if scheduled:  # not for a last epoch's extra validation, which a longer run does not have
            self.best_epoch, self.best_score = best_epoch, best_score
            self.since_best = 0 if best else self.since_best + 1
        report = EpochReport(
            epoch=self.done,
            epochs=self.options.epochs,
            step=self.step,
            seconds=seconds,
            phases=losses,
            score=score,
            best=best,
            best_epoch=best_epoch,
            best_score=best_score,
        )
        if best and self.hooks.keep_best is not None:
            with self._averaged():
                self.hooks.keep_best(report)
        if self.hooks.keep_state is not None:
            self.hooks.keep_state(self.state(), report)
        if self.hooks.on_epoch is not None:
            self.hooks.on_epoch(report)
        return report

    def state(self) -> TrainState:
        """Return the state after the last whole epoch; the tensors share the network's memory."""
        tensors = {f"network.{name}": value.detach() for name, value in self.network.named_parameters()}
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.network.named_parameters()}
        for phase, optimiser in self.optimisers.items():
            for parameter, slots in optimiser.state.items():
                for slot, value in slots.items():
                    tensors[f"adam.{phase}.{names[parameter]}.{slot}"] = value
        for (name, _), mean in zip(self.network.named_parameters() if self.average else (), self.average, strict=True):
            tensors[f"average.{name}"] = mean
        tensors["noise"] = self.noise.state()
        values = {
            "done": self.done,
            "step": self.step,
            "best_epoch": self.best_epoch,
            "best_score": self.best_score,
            "since_best": self.since_best,
            "device": self.clicks.device.type,
            "arithmetic": arithmetic(self.clicks.device),
        }
        return TrainState(tensors, values)

    def _state_within(self, within: "_Within") -> TrainState:
        """Return the state after an update within an epoch."""
        state = self.state()
        kept = {f"prior.{name}": value for name, value in self.network.prior_state().items()}
        return TrainState(
            {**state.tensors, **kept, "order": self.order}, {**state.values, "within": asdict(within)}, state.source
        )

    def restore(self, state: TrainState) -> None:
        """Continue from a :meth:`state`; raise :class:`InputError` where it was on another type of device."""
        device = state.values["device"]
        if device != self.clicks.device.type:
            raise InputError(
                f"The run was on '{device}', and its random numbers can go on only there. Use device='{device}'."
            )
        was, now = state.values.get("arithmetic"), arithmetic(self.clicks.device)
        if was is not None and was != now:  # states of older versions lack it
            warnings.warn(
                f"{state.source} was made with {listed(was)}; here it goes on with {listed(now)}. What follows is as "
                "good, but not bit for bit what it would have been.",
                OtherMachineWarning,
                stacklevel=2,
            )
        found = {name: (tuple(value.shape), value.dtype) for name, value in state.tensors.items()}
        kept = {name: value for name, value in state.tensors.items() if name.startswith("prior.")}
        within = _Within(**state.values["within"]) if state.values.get("within") else None
        begun = len(self.phases) if state.values["done"] else 0 if within is None else within.phase + 1
        expected = self._expected(begun) | {name: Expected(*found[name]) for name in kept}
        wrong = wrong_form(expected if within is None else {**expected, "order": expected["noise"]}, found)
        if wrong:
            raise FormatError(f"{state.source} is another model's, or was altered: it {wrong}. Train again.")
        parameters = dict(self.network.named_parameters())
        of_network = {name: state.tensors[f"network.{name}"] for name in parameters}
        self.network.load_state_dict(of_network, strict=False)  # tensors that are not trained are as built
        for name, value in state.tensors.items():
            if name.startswith("adam."):
                _, phase, rest = name.split(".", 2)
                parameter, slot = rest.rsplit(".", 1)
                owner = parameters[parameter]
                self.optimisers[phase].state[owner][slot] = value.to(owner.device, copy=True)
        for (name, _), mean in zip(self.network.named_parameters() if self.average else (), self.average, strict=True):
            mean.copy_(state.tensors[f"average.{name}"])
        try:
            if within is not None:
                self.within, self.order = within, state.tensors["order"].cpu()
                self.noise.restore(self.order)
                self.network.restore_prior({name.removeprefix("prior."): value for name, value in kept.items()})
            self.noise.restore(state.tensors["noise"].cpu())
        except RuntimeError as error:
            raise FormatError(f"{state.source} was altered: its random generator cannot go on. Train again.") from error
        self.done, self.step = state.values["done"], state.values["step"]
        self.best_epoch, self.best_score = state.values["best_epoch"], state.values["best_score"]
        self.since_best = state.values["since_best"]

    def _expected(self, begun: int) -> dict[str, Expected]:
        """Return the form of the tensors in a state, of a run that has begun so many phases."""
        form = {name: (tuple(value.shape), value.dtype) for name, value in self.network.named_parameters()}
        expected = {f"network.{name}": Expected(*of_one) for name, of_one in form.items()}
        if self.average:
            expected |= {f"average.{name}": Expected(*of_one) for name, of_one in form.items()}
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.network.named_parameters()}
        for phase in self.phases[:begun]:
            for name in (names[parameter] for parameter in phase.parameters):
                expected[f"adam.{phase.name}.{name}.step"] = Expected(())
                for slot in ("exp_avg", "exp_avg_sq"):
                    expected[f"adam.{phase.name}.{name}.{slot}"] = Expected(*form[name])
        noise = self.noise.state()
        return {**expected, "noise": Expected(tuple(noise.shape), noise.dtype)}


@dataclass(frozen=True)
class _Within:
    """A place within an epoch: the phase, its passes and the batches of the next pass that are done, and losses."""

    phase: int
    passes: int
    batches: int
    losses: dict[str, dict[str, float]]  # of the phases before
    meter: JsonObject  # of this phase


def is_scheduled(epoch: int, options: TrainOptions) -> bool:
    """Return whether ``validate_every`` schedules a validation after this epoch."""
    return epoch % options.validate_every == 0


def _number(score: object) -> float:
    """Return a validation's result as a float; raise :class:`InputError` where it is no number."""
    try:
        return float(score)  # type: ignore[arg-type]  # whatever a caller returned: the except says what it is not
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise InputError(
            f"The validation gave {shown(score)}. It must return one number, the higher the better."
        ) from error
