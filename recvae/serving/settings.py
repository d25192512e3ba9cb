"""The settings of a service, checked before anything is loaded."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from recvae.errors import InputError
from recvae.queries import MOST_REASONS

SHORTEST_TOKEN = 16  # characters


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a service answers: where, whom, within which limits.

    ``runs``: run folders and exports by name, the first being the default one. ``threads``: with which an export
    computes; torch has those of the process. ``token``: the text that a request must bring, None
    where none is asked for; it is in no repr. ``max_queue``: queries that may wait for the ranking thread, over all
    connections of a process. ``max_explained``: items of a history for which reasons are asked; their time grows with
    its square, and all others wait. Times are seconds: ``head_within`` and ``body_within`` that a client may take to
    send a request's head and its body, ``keep_alive`` that an idle connection stays open, ``drain_within`` for requests
    under way when the service is asked to end. Raises :class:`InputError` for values that cannot be used.
    """

    runs: Mapping[str, Path]
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    device: str = "auto"
    threads: int = 1
    token: str | None = field(default=None, repr=False)
    no_auth: bool = False
    watch: bool = True
    access_log: bool = True
    max_k: int = 1000
    max_history: int = 10_000
    max_batch: int = 256
    max_body: int = 1 << 20
    max_queue: int = 1024
    max_reasons: int = MOST_REASONS
    max_explained: int = 1000
    rows_at_once: int = 64
    head_within: float = 10.0
    body_within: float = 20.0
    keep_alive: float = 75.0
    drain_within: float = 30.0

    def __post_init__(self) -> None:
        if not self.runs:
            raise InputError("Name at least one run folder or export to serve.")
        for name in ("workers", "max_k", "max_history", "max_batch", "max_body", "max_queue", "rows_at_once"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} must be at least 1, and is {getattr(self, name)}.")
        if not 0 <= self.port <= 65_535:
            raise InputError(f"--port must be a number from 0 to 65535, and is {self.port}.")
        if self.max_batch > self.max_queue:
            raise InputError(
                f"--max-batch is {self.max_batch} and --max-queue {self.max_queue}: a full batch would never be "
                "answered. Make the queue at least as long as a batch."
            )
        if self.token is None and not self.no_auth and not is_loopback(self.host):
            raise InputError(
                f"--host {self.host} can be reached from other machines, and no token is asked for. Add --token-file "
                "FILE, or --no-auth if everybody may ask."
            )


def is_loopback(host: str) -> bool:
    """Return whether a host's name or address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_token(path: Path) -> str:
    """Return the token that a file holds; raise :class:`InputError` where it cannot be used. No message shows it."""
    try:
        token = path.read_bytes()[:4096].decode("ascii").strip()
    except OSError as error:
        raise InputError(f"The token file {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"The token in {path} has characters beyond ASCII. Use letters and digits.") from error
    if len(token) < SHORTEST_TOKEN or not token.isprintable() or " " in token:
        raise InputError(
            f"{path} must hold one token of at least {SHORTEST_TOKEN} characters without spaces. Make one with: "
            f"python -c 'import secrets; print(secrets.token_urlsafe(32))' > {path}"
        )
    return token
