"""The start of a function, which looks for no garbage."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.unit.test_trimmed_code import environment_of

HOT = ("authorizer", "entitlements", "usage")


@pytest.mark.parametrize("function", HOT)
def test_garbage_is_looked_for_when_a_function_has_started(function: str) -> None:
    """Though not in what it has imported; and the import that stops it comes before all that it loads."""
    code = (
        "import gc, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if not name.startswith('tollgate') and name in ('aws_lambda_powertools', 'botocore', 'pynamodb'):\n"
        "            print(name, gc.isenabled())\n"
        "sys.meta_path.insert(0, Watch())\n"
        "import app\n"
        "print(gc.isenabled(), gc.get_freeze_count() > 50_000)"
    )
    path = f"{ROOT / 'layers/common'}:{ROOT / 'functions' / function}"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment_of(path), capture_output=True, text=True, check=True
    )
    said = sorted(done.stdout.splitlines())
    assert said == ["True True", "aws_lambda_powertools False", "botocore False", "pynamodb False"]
