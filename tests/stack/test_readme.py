"""What the README shows, done: its curl session word by word, and `make run` with what it prints."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.readme import check_first_session, first_session, shell
from tools.local import Stack

ROOT = Path(__file__).parents[2]


def test_the_first_session_with_curl_answers_as_the_readme_says(stack: Stack) -> None:
    """The blocks of its section, with the running stack in place of that of `make run`."""
    check_first_session(first_session(stack.api_url, stack.api_key))


def test_make_run_serves_what_it_prints_replays_to_duplicates_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Everything it shows works as printed; Ctrl-C ends all that it started."""
    # What a shell starts in the background is started deaf to Ctrl-C, and so are these tests then.
    listening = ["env", "--default-signal=INT"]
    command = [*listening, sys.executable, "-m", "tools.local", "run", "--port", "0", "--state", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as run:
        try:
            assert run.stdout is not None
            printed = []
            for line in run.stdout:
                printed.append(line.strip())
                if line.startswith("Ctrl-C ends it"):
                    break
            known = json.loads((tmp_path / "stack.json").read_text())
            assert set(known) == {"api_url", "api_key", "aws_endpoint_url", "region", "stack_name"}
            usage, event, entitlement = [json.loads(shell(line)) for line in printed if line.startswith("curl ")]
            assert (usage["quantity"], event["accepted"], entitlement["reason"]) == ("482", 1, "quota_exceeded")
            replay = [sys.executable, "-m", "tools.demo", "--state", str(tmp_path)]
            again = subprocess.run(replay, cwd=ROOT, capture_output=True, text=True, check=True).stdout
            assert re.search(r"│ +0 │ +20,665 │ +0 │ +0 │", again), again
        finally:
            os.kill(run.pid, signal.SIGINT)
            last, _ = run.communicate()
    assert (run.returncode, last.strip()) == (0, "ended; nothing is left running")
    assert not (tmp_path / "stack.json").exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(known["aws_endpoint_url"])
