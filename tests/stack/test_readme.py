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

from tools.local import Stack

ROOT = Path(__file__).parents[2]


def shell(script: str) -> str:
    """What a script prints; it must succeed."""
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_session_with_curl_answers_as_the_readme_says(stack: Stack) -> None:
    """The blocks of its section, with the running stack in place of that of `make run`."""
    section = (ROOT / "README.md").read_text().partition("## A first session with curl")[2].partition("\n## ")[0]
    setup, create, use, bill = re.findall(r"```\n(.*?)```", section, re.DOTALL)
    (function,) = [line for line in setup.splitlines() if line.startswith("tollgate()")]
    script = "\n".join([f"API={stack.api_url!r}", f"KEY={stack.api_key!r}", function, create, use, bill])
    answers = [json.loads(line) for line in shell(script).splitlines() if line]
    feature, plan, customer, subscription, first, second, usage, entitlement, quote, *billing = answers
    assert (feature["code"], plan["version"], customer["id"]) == ("api-calls", 1, "acme")
    assert subscription["status"] == "active"
    assert (first["accepted"], second["duplicate"]) == (1, 1)
    assert (usage["quantity"], usage["events"]) == ("250", 1)
    assert (entitlement["allowed"], entitlement["reason"]) == (False, "quota_exceeded")
    assert (entitlement["used"], entitlement["remaining"]) == ("250", "250")
    assert quote["amount"] == "22.00"
    deposit, run, invoices, upcoming = billing
    assert (deposit["balance_after"], run["failed"]) == ("100.00", 0)
    assert [(one["total"], one["status"]) for one in invoices["items"]] == [("20.00", "paid")]
    assert (upcoming["total"], [line["amount"] for line in upcoming["lines"]]) == ("42.00", ["20.00", "22.00"])


def test_make_run_serves_what_it_prints_replays_to_duplicates_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Everything it shows works as printed; Ctrl-C ends all that it started."""
    command = [sys.executable, "-m", "tools.local", "run", "--port", "0", "--state", str(tmp_path)]
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
