"""The service and its OpenAPI document agree, whatever schemathesis asks: nothing fails, and every answer conforms."""

import os
import re
import subprocess
import sys
from contextlib import suppress

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from serving_models import fitted
from serving_process import here

# By contract an unknown tag, condition or model of a well-formed request is a 422 or a 404.
LEFT_OUT = [positive_data_acceptance]
LEAST = 2000  # requests of the slow run


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("document")
    for name in ("conditional-vae", "ease"):
        fitted(name).save(folder / name)
    with here({"films": folder / "conditional-vae", "books": folder / "ease"}) as found:
        yield found


@pytest.fixture(scope="module")
def address(service):
    return f"http://127.0.0.1:{service.port}/openapi.json"


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_a_few_requests_of_every_kind(address, mode):
    operations = [result.ok() for result in schemathesis.openapi.from_url(address).get_all_operations()]
    assert len(operations) > 10
    asked = 0
    for operation in operations:

        @settings(
            max_examples=2, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy(generation_mode=mode))
        def conforms(case):
            nonlocal asked
            asked += 1
            case.call_and_validate(excluded_checks=LEFT_OUT)

        with suppress(Unsatisfiable):  # a request without any parameter cannot be wrong
            conforms()
    assert asked >= 8


@pytest.mark.slow
def test_two_thousand_requests(address, tmp_path):
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", address, "--max-examples", "80", "--seed", "1", "--no-color",
        "--exclude-checks", "positive_data_acceptance", "--suppress-health-check", "all",
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", timeout=600, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    made = re.search(r"(\d+) generated", done.stdout)
    assert made is not None, done.stdout[-2000:]
    assert int(made[1]) >= LEAST
