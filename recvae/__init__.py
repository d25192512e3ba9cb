"""Variational autoencoders for collaborative filtering, right to their papers.

The public objects, :class:`Recommender`, :class:`Query`, :class:`Answer`, :func:`load`, :func:`write_lists` and the
class of every registered model, are imported on first use (PEP 562), so that ``import recvae`` costs nothing.
``__init__.pyi`` declares them for editors and type checkers.

:func:`prepare`, :class:`Dataset`, :func:`evaluate` and :func:`validator` are those of ``data_prep`` and ``eval``. From
here, a folder of the user's that hides one of these packages gets a sentence with its name.
"""

from importlib import import_module

__version__ = "0.1.0"  # as setup.cfg has it; before the import below, whose modules may ask for it

from recvae.registry import HOMES

_SIBLINGS = {"Dataset": "data_prep", "evaluate": "eval", "prepare": "data_prep", "validator": "eval"}
_HOME = {
    "Answer": "recvae.queries",
    "Query": "recvae.queries",
    "Recommender": "recvae.recommender",
    "RecvaeError": "recvae.errors",
    "load": "recvae.recommender",
    "register": "recvae.registry",
    "write_lists": "recvae.serving.lists.walk",
    **HOMES,
    **_SIBLINGS,
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'recvae' has no attribute '{name}'")
    if name in _SIBLINGS or name == "write_lists":  # whose modules import the two packages
        from recvae.shadows import refuse_shadows

        refuse_shadows()
    value: object = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
