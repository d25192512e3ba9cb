"""A check that no folder or file of the user's hides the packages ``eval`` and ``data_prep``."""

from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

from recvae.errors import InputError

SIBLINGS = ("eval", "data_prep")


def refuse_shadows() -> None:
    """Raise :class:`InputError` naming a folder or file that hides one of our packages; nothing is imported.

    ``python -m recvae`` and PYTHONPATH put folders before the installed packages, and ``eval`` is a likely name.
    """
    ours = Path(__file__).resolve().parent.parent.parent
    for name in SIBLINGS:
        found = _location(find_spec(name))
        if found is None:
            raise InputError(f"The package '{name}', a part of recvae, is missing from {ours}. Install recvae again.")
        if found.resolve() != ours / name:
            raise InputError(
                f"{found} hides recvae's own package '{name}'. Rename it, or run recvae from another folder."
            )


def _location(spec: ModuleSpec | None) -> Path | None:
    """Return the folder of a package, or the file of a module."""
    if spec is None:
        return None
    if spec.submodule_search_locations:  # a package, also one without __init__.py
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.origin else None
