"""`make test-samlocal` where it cannot run: a line that says why, and a code that is not 0."""

import os
from pathlib import Path

import pytest

from tools import ToolError, samlocal


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("unix://{}/none", "no Docker daemon answers, and one can be started only by root"),
        ("tcp://192.0.2.1:2375", "a daemon of this machine is needed"),
    ],
)
def test_where_there_is_no_docker_a_line_says_so(
    host: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """And the command is not run."""
    monkeypatch.setattr(samlocal, "FOLDER", tmp_path)
    monkeypatch.setenv("DOCKER_HOST", host.format(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert samlocal.main(["echo", "run"]) == 1
    out, err = capfd.readouterr()
    [line] = err.splitlines()
    assert line.startswith("tollgate: ")
    assert why in line
    assert out == ""


def test_what_is_prepared_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests of tests/samlocal, run by pytest alone, say how they are run."""
    monkeypatch.delenv(samlocal.PREPARED, raising=False)
    with pytest.raises(ToolError, match="make test-samlocal"):
        samlocal.SamLocal.prepared()
