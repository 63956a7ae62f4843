"""The README's first session with curl, word by word."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def shell(script: str) -> str:
    """What a script prints; it must succeed."""
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def first_session(api_url: str, api_key: str) -> list[Any]:
    """The answers to the commands of its section, with an API and a key in place of those of `make run`."""
    section = (ROOT / "README.md").read_text().partition("## A first session with curl")[2].partition("\n## ")[0]
    setup, create, use, bill = re.findall(r"```\n(.*?)```", section, re.DOTALL)
    (function,) = [line for line in setup.splitlines() if line.startswith("tollgate()")]
    script = "\n".join([f"API={api_url!r}", f"KEY={api_key!r}", function, create, use, bill])
    return [json.loads(line) for line in shell(script).splitlines() if line]


def check_first_session(answers: list[Any]) -> None:
    """They are as the README says."""
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
