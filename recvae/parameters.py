"""scikit-learn's habits: the options of a model by name, to be read, set and copied. scikit-learn is not needed."""

from dataclasses import fields
from typing import TYPE_CHECKING, Self

from recvae.config import RunConfig
from recvae.errors import InputError
from recvae.nn.devices import torch_device

if TYPE_CHECKING:
    import torch

    from recvae.files import JsonObject


class Parameters:
    """A model whose options are the keyword arguments of its class.

    ``get_params``, ``set_params`` and ``sklearn.base.clone`` work as they do for scikit-learn's estimators, so that its
    ``ParameterGrid`` and tools that copy and set estimators can be used.
    """

    config: RunConfig
    device: "torch.device"
    _asked: RunConfig  # the options as they were set, before those that nobody set followed the data
    _device: str  # the device as it was named

    if TYPE_CHECKING:

        @property
        def n_items(self) -> int:
            """Size of the catalogue; 0 before fit."""

    def get_params(self, deep: bool = True) -> "JsonObject":
        """Return the options by name, as the class takes them: ``type(model)(**model.get_params())`` is its like.

        Options that follow the data, and that nobody set, are not among them; ``model.config`` has their values after
        :meth:`fit`. ``deep`` is scikit-learn's argument, and changes nothing: no option is an estimator.
        """
        del deep
        config, names = self._asked, {"seed": self._asked.seed, "device": self._device}
        for section, options in (("model", config.model), ("train", config.train)):
            if options is not None:
                of_section = (field.name for field in fields(options))
                names |= {name: getattr(options, name) for name in of_section if f"{section}.{name}" not in config.open}
        return names

    def set_params(self, **options: object) -> Self:
        """Set options by name and return self; a fitted model keeps what it learned, and the next fit uses them.

        Raises :class:`ConfigError`, and changes nothing, where an option is unknown or out of range, and
        :class:`InputError` for another device of a fitted model.
        """
        if self.n_items and options.get("device", self._device) != self._device:
            raise InputError("A fitted model stays on its device: make another with sklearn.base.clone, or load a run.")
        other = self._with({**self.get_params(), **options})
        self._asked, self._device = other._asked, other._device
        if not self.n_items:
            self.config, self.device = other.config, torch_device(other._device)
        return self

    def _with(self, options: "JsonObject") -> Self:
        """Return an unfitted model of the same class with these options."""
        return type(self)(**options)

    def __sklearn_clone__(self) -> Self:
        """Return an unfitted model with the same options: ``sklearn.base.clone`` calls this."""
        return self._with(self.get_params())
