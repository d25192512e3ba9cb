"""What the distribution promises: public names, light imports, plain packages."""

import re
import subprocess
import sys
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path

import pytest

import recvae

ROOT = Path(__file__).resolve().parent.parent


def run(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("package", ["recvae", "data_prep", "eval"])
def test_public_names_exist_and_are_documented(package):
    module = import_module(package)
    for name in module.__all__:
        value = getattr(module, name)
        if callable(value):
            assert value.__doc__, name
    assert set(module.__all__) <= set(dir(module))


def test_the_public_names_of_recvae():
    assert set(recvae.__all__) == {
        "Answer", "Blend", "ConditionalVAE", "Dataset", "EASE", "EDLAE", "ImplicitALS", "ItemKNN", "MultDAE", "MultVAE",
        "Popularity", "Query", "RecVAE", "RecVAEEDLAE", "Recommender", "RecvaeError", "VAEAC", "VampVAE",
        "__version__", "evaluate", "load", "prepare", "register", "validator", "write_lists",
    }  # fmt: skip
    with pytest.raises(AttributeError, match="no attribute 'RecVea'"):
        recvae.RecVea  # noqa: B018 - the access is the test


def test_importing_a_package_is_light():
    heavy = ("torch", "pandas", "pyarrow", "implicit", "matplotlib")
    for package in ("recvae", "data_prep", "eval", "recvae.cli"):
        loaded = run(f"import sys, {package}; print(*[m for m in {heavy} if m in sys.modules])").split()
        assert loaded == [], package


def test_nothing_but_als_imports_implicit():
    assert run("import recvae, sys; recvae.RecVAE; recvae.EASE; print('implicit' in sys.modules)").strip() == "False"


def test_numeric_modules_need_torch_numpy_and_scipy_only():
    """Imported with everything else hidden, as on a machine that has little."""
    program = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"pandas", "pyarrow", "pydantic", "safetensors", "typer", "rich", "implicit",
                                      "threadpoolctl", "pooch", "platformdirs", "matplotlib"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
import recvae.nn.batches, recvae.nn.likelihoods, recvae.nn.schedules, recvae.training.loop, recvae.ranking.lists
import recvae.models.mult, recvae.models.recvae, recvae.models.vaeac, recvae.models.vamp
print("fine")
"""
    assert run(program).strip() == "fine"


def test_constraints_pin_every_dependency():
    pinned = {
        line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    wanted = config["options"]["install_requires"].splitlines()
    for extra in config["options.extras_require"].values():
        wanted += extra.splitlines()
    for line in filter(lambda line: line and not line.startswith("recvae["), wanted):
        assert line.split(">=")[0].strip().lower() in pinned, line


def test_the_version_is_said_once():
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["metadata"]["version"] == recvae.__version__


def test_types_are_any_in_few_places():
    """mypy is strict, and a name of type Any passes it whatever it holds: so these places are few, and stay few."""
    lines = (
        line
        for package in ("recvae", "data_prep", "eval")
        for file in (ROOT / package).rglob("*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
    )
    found = [line for line in lines if re.search(r"\bAny\b", line) and "import" not in line]
    assert len(found) < 120
