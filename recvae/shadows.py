"""A check that no folder or file of the user's hides the packages ``eval`` and ``data_prep``.

The command line makes it before anything else, and ``recvae`` before it hands out a name of one of the two packages.
"""

from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

from recvae.errors import InputError

SIBLINGS = ("eval", "data_prep")


def refuse_shadows() -> None:
    """Raise :class:`InputError` naming a folder or file that hides one of our packages; nothing is imported.

    A script's own folder, that of ``python -m recvae`` and those of PYTHONPATH come before the installed packages, and
    ``eval`` is a likely name.
    """
    ours = Path(__file__).resolve().parent.parent
    for name in SIBLINGS:
        found = _location(find_spec(name))
        if found is None:
            raise InputError(f"The package '{name}', a part of recvae, is missing from {ours}. Install recvae again.")
        if found.resolve() != ours / name:
            raise InputError(
                f"{found} hides recvae's own package '{name}'. Rename it, or run the program from another folder."
            )


def _location(spec: ModuleSpec | None) -> Path | None:
    """Return the folder of a package, or the file of a module."""
    if spec is None:
        return None
    if spec.submodule_search_locations:  # a package, also one without __init__.py
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.origin else None
