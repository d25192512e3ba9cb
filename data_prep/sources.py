"""The known datasets: their addresses, the MD5 sums of their archives, and the form of their files.

The MD5 sums are those that GroupLens publishes beside each archive. Releases that change over time have none here: the
published sum is fetched with the archive. Archives are read in place, never unpacked.
"""

import re
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from data_prep.streams import ByteSource, Progress
from data_prep.titles import Titles, read_rows, titles_from_rows
from recvae.errors import DataError, InputError, WorkError, did_you_mean
from recvae.files import JsonObject, file_hash

_URL = "https://files.grouplens.org/datasets/movielens/"
_CITATION = (
    "F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and Context."
    " ACM Transactions on Interactive Intelligent Systems 5, 4. https://doi.org/10.1145/2827872"
)
_LICENCE = "GroupLens terms of use (research, with acknowledgement); see the README in the archive."


@dataclass(frozen=True)
class RatingsFile:
    """A file of ratings: all its ``columns`` where it has no header, else None."""

    file: str
    separator: str = ","
    columns: tuple[str, ...] | None = None
    user: str = "userId"
    item: str = "movieId"
    rating: str = "rating"
    time: str = "timestamp"


@dataclass(frozen=True)
class ItemsFile:
    """A file of id, title and genres; ``genre_names`` is the file that names genre flags from column 5 on."""

    file: str
    separator: str = ","
    encoding: str = "utf-8"
    header: bool = True
    genre_names: str | None = None


@dataclass(frozen=True)
class UsersFile:
    """A file of user attributes: the id, then ``names``."""

    file: str
    names: tuple[str, ...]
    separator: str = ","
    encoding: str = "utf-8"
    header: bool = True


@dataclass(frozen=True)
class Release:
    """A known dataset. ``md5`` is None for a release that changes over time; of file variants the first found is read.

    ``held_out_users`` is the convention for the strong split, or None for the general rule.
    """

    name: str
    url: str
    md5: str | None
    ratings: tuple[RatingsFile, ...] = (RatingsFile("ratings.csv"),)
    items: tuple[ItemsFile, ...] = (ItemsFile("movies.csv"),)
    users: tuple[UsersFile, ...] = ()
    min_rating: float = 4.0
    held_out_users: int | None = None
    licence: str = _LICENCE
    citation: str = _CITATION


_HEADERLESS = ("userId", "movieId", "rating", "timestamp")
_RATINGS_DAT = RatingsFile("ratings.dat", "::", _HEADERLESS)
_100K_USERS = ("age", "gender", "occupation", "zip_code")
_1M_USERS = ("gender", "age", "occupation", "zip_code")


def _release(name: str, md5: str | None, **how: Any) -> Release:
    return Release(name, f"{_URL}{name}.zip", md5, **how)


_ALL = (
    _release(
        "ml-100k",
        "0e33842e24a9c977be4e0107933c0723",
        ratings=(RatingsFile("u.data", "\t", _HEADERLESS),),
        items=(ItemsFile("u.item", "|", "latin-1", header=False, genre_names="u.genre"), ItemsFile("items.csv")),
        users=(UsersFile("u.user", _100K_USERS, "|", "latin-1", header=False), UsersFile("users.csv", _100K_USERS)),
        held_out_users=100,
    ),
    _release(
        "ml-1m",
        "c4d9eecfca2ab87c1945afe126590906",
        ratings=(_RATINGS_DAT, RatingsFile("ratings.csv")),
        items=(ItemsFile("movies.dat", "::", "latin-1", header=False),),
        users=(UsersFile("users.dat", _1M_USERS, "::", "latin-1", header=False),),
        held_out_users=600,
    ),
    _release(
        "ml-10m",
        "ce571fd55effeba0271552578f2648bd",
        ratings=(_RATINGS_DAT,),
        items=(ItemsFile("movies.dat", "::", header=False),),
    ),
    _release("ml-20m", "cd245b17a1ae2cc31bb14903e1204af3", held_out_users=10_000),
    _release("ml-25m", "6b51fb2759a8657d3bfcbfc42b592ada", held_out_users=10_000),
    _release("ml-32m", "d472be332d4daa821edc399621853b57", held_out_users=10_000),
    _release("ml-latest-small", None),
    _release("ml-latest", None),
)
RELEASES: dict[str, Release] = {release.name: release for release in _ALL}


def find_release(name: str) -> Release:
    """Return the known dataset of this name; raise :class:`InputError` that suggests the nearest."""
    if name.lower() in RELEASES:
        return RELEASES[name.lower()]
    hint = did_you_mean(name.lower(), RELEASES)
    raise InputError(f"There is no dataset or file '{name}'; known datasets are {', '.join(RELEASES)}.{hint}")


@dataclass(frozen=True)
class Found:
    """A release's files: ``find`` returns a file by name, or None; ``place`` is the archive or folder, for messages."""

    release: Release
    place: str
    find: Callable[[str], ByteSource | None]
    archive: Path | None

    def ratings(self) -> tuple[RatingsFile, ByteSource]:
        """Return the form of the ratings file and the file; raise :class:`DataError` where they are missing."""
        for variant in self.release.ratings:
            file = self.find(variant.file)
            if file is not None:
                return variant, file
        names = " or ".join(variant.file for variant in self.release.ratings)
        raise DataError(f"{self.place} is not {self.release.name}: it has no {names}.")

    def titles(self) -> Titles:
        """Read titles and genres; empty where the source has none."""
        for variant in self.release.items:
            file = self.find(variant.file)
            if file is None:
                continue
            rows = islice(read_rows(file, variant.separator, variant.encoding), int(variant.header), None)
            if variant.genre_names is None:
                return titles_from_rows(file, rows, title=1, tags=2)
            names_file = self.find(variant.genre_names)
            names = [row[0] for row in read_rows(names_file, "|", variant.encoding)] if names_file else []
            flagged = (
                (*row[:2], "|".join(n for n, on in zip(names, row[5:], strict=False) if on == "1")) for row in rows
            )
            return titles_from_rows(file, flagged, title=1, tags=2)
        return Titles()

    def user_tags(self) -> dict[str, dict[str, str]]:
        """Read user attributes by user id; empty where the source has none."""
        for variant in self.release.users:
            file = self.find(variant.file)
            if file is not None:
                rows = islice(read_rows(file, variant.separator, variant.encoding), int(variant.header), None)
                return {row[0]: dict(zip(variant.names, row[1:], strict=False)) for row in rows}
        return {}

    def about(self) -> JsonObject:
        """Return the manifest's entry for the source, with the SHA-256 of the archive or of the ratings file."""
        file = self.archive or self.ratings()[1].path
        return {
            "kind": "release",
            "name": self.release.name,
            "file": file.name,
            "sha256": file_hash(file),
            "url": self.release.url,
            "licence": self.release.licence,
            "citation": self.release.citation,
        }


def locate(
    release: Release, source: str | Path | None = None, *, progress: Progress | None = None, cache: Path | None = None
) -> Found:
    """Find a release's files in ``source`` (an archive, or a folder it was unpacked to), else download it.

    A downloaded archive is kept in ``cache`` (default: the user's cache folder) and used again. Raises
    :class:`InputError` where ``source`` is missing, :class:`DataError` where it is not the published archive, and
    :class:`WorkError` where the download fails.
    """
    if source is None:
        return _open_archive(release, download(release, progress=progress, cache=cache))
    path = Path(source)
    if path.is_dir():
        return _open_folder(release, path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a file that can be read twice, as an archive must be. Save it first.")
    if not path.exists():
        raise InputError(f"There is no file or folder {path}. Give {release.name}.zip, or the folder it unpacks to.")
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    if not is_zip:
        raise DataError(f"{path} is not a zip archive. Give {release.name}.zip, or the folder it unpacks to.")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is a truncated or damaged zip archive. Download it again from {release.url}.")
    if release.md5 is not None:
        actual = file_hash(path, "md5")
        if actual != release.md5:
            raise DataError(
                f"{path} is not the published {release.name}.zip: its MD5 is {actual}, not {release.md5}."
                f" Download it again from {release.url}."
            )
    return _open_archive(release, path)


def _open_archive(release: Release, path: Path) -> Found:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
    except zipfile.BadZipFile as error:
        raise DataError(f"{path} is a damaged zip archive ({error}). Download it again from {release.url}.") from error

    def find(name: str) -> ByteSource | None:
        matches = [member for member in names if member.rsplit("/", 1)[-1] == name]
        return ByteSource(path, min(matches, key=lambda member: member.count("/"))) if matches else None

    return Found(release, str(path), find, archive=path)


def _open_folder(release: Release, folder: Path) -> Found:
    # An archive unpacks to one folder inside, which for ml-10m has a name of its own.
    places = [folder, *sorted(inner for inner in folder.iterdir() if inner.is_dir())]

    def find(name: str) -> ByteSource | None:
        candidates = (place / written for place in places for written in (name, f"{name}.gz"))
        return next((ByteSource(path) for path in candidates if path.is_file()), None)

    return Found(release, str(folder), find, archive=None)


# --- download ----------------------------------------------------------------------------------------------------


class _Bar:
    """The progress bar that pooch expects; it calls our callback."""

    def __init__(self, what: str, progress: Progress) -> None:
        self.total, self._what, self._progress, self._done = 0, what, progress, 0

    def update(self, amount: int) -> None:
        self._done += amount
        self._progress(self._what, self._done, self.total or None)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        pass


def default_cache() -> Path:
    """Return the default folder of downloads."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("recvae", appauthor=False))


def download(release: Release, *, progress: Progress | None = None, cache: Path | None = None) -> Path:
    """Return the release's archive, downloaded unless it is in ``cache`` with the published hash.

    Raises :class:`WorkError` where the download fails or the archive is not the published one.
    """
    folder = cache or default_cache()
    md5 = release.md5
    if md5 is None:
        with tempfile.TemporaryDirectory() as scratch:
            published = _retrieve(release, f"{release.url}.md5", None, Path(scratch), None)
            match = re.search(r"\b[0-9a-f]{32}\b", published.read_text(errors="replace").lower())
        if match is None:
            raise WorkError(
                f"{release.url}.md5 does not hold an MD5 sum. Download {release.name}.zip by hand; --source."
            )
        md5 = match[0]
    return _retrieve(release, release.url, f"md5:{md5}", folder, progress)


def _retrieve(release: Release, url: str, known_hash: str | None, folder: Path, progress: Progress | None) -> Path:
    import pooch

    pooch.get_logger().setLevel("ERROR")  # this library does not print; progress goes to the callback
    name = url.rsplit("/", 1)[-1]
    bar = _Bar(f"download {name}", progress) if progress is not None else False
    by_hand = f"Check the connection, or download {release.url} by other means and give it with --source."
    try:
        downloader = pooch.HTTPDownloader(progressbar=bar)
        return Path(pooch.retrieve(url, known_hash, fname=name, path=folder, downloader=downloader))
    except OSError as error:  # errors of requests included
        raise WorkError(f"{url} could not be downloaded to {folder}: {_reason(error)}. {by_hand}") from error
    except ValueError as error:  # pooch raises it for a wrong hash
        raise WorkError(f"{url} arrived damaged: its MD5 is not the published one. {by_hand}") from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) < 160 else f"{text[:160]} ..."
