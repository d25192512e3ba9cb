"""Inspect a wheel: its top levels, type markers, configurations and page, and that nothing else is in it."""

import sys
import zipfile
from pathlib import Path

PAGE = "recvae/serving/page/"


def main(path: str) -> int:
    """Return 0 where the wheel holds exactly what it should, else print what is wrong."""
    names = zipfile.ZipFile(path).namelist()
    packages = {name.split("/")[0] for name in names if not name.split("/")[0].endswith((".dist-info", ".data"))}
    page = {name.removeprefix(PAGE) for name in names if name.startswith(PAGE)}
    shipped = {Path(name).name for name in names if "/share/recvae/configs/" in name}
    wrong = []
    if packages != {"recvae", "data_prep", "eval"}:
        wrong.append(f"top levels are {sorted(packages)}")
    wrong += [f"{p}/py.typed is missing" for p in ("recvae", "data_prep", "eval") if f"{p}/py.typed" not in names]
    if shipped != {file.name for file in Path("configs").glob("*.toml")}:
        wrong.append(f"configurations are {sorted(shipped)}")
    if page != {file.name for file in Path(PAGE).iterdir()}:
        wrong.append(f"the service's page is {sorted(page)}")
    if not any(name.endswith("licenses/LICENSE") for name in names):
        wrong.append("the licence is missing")
    allowed = (
        ".py",
        "__init__.pyi",
        "py.typed",
        ".toml",
        "LICENSE",
        "METADATA",
        "WHEEL",
        "RECORD",
        "entry_points.txt",
        "top_level.txt",
    )
    wrong += [
        f"{name} does not belong in it" for name in names if not name.endswith(allowed) and not name.startswith(PAGE)
    ]
    size = Path(path).stat().st_size
    if size > 1_000_000:
        wrong.append(f"it is {size} bytes large")
    for line in wrong:
        print(f"{path}: {line}")  # noqa: T201 - this program's answer
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
