"""`make restore-drill` as it is printed, against the running stack."""

import json
import re
import subprocess
import sys
from pathlib import Path

import boto3

from tests.conftest import ROOT
from tools.local import Stack


def test_what_is_spoilt_is_restored_and_reads_as_it_did(stack: Stack, tmp_path: Path) -> None:
    """Deleted, falsified and added to; then all as it was, and nothing is left of what was restored."""
    known = {"api_url": stack.api_url, "api_key": stack.api_key, "aws_endpoint_url": stack.endpoint_url}
    known |= {"region": stack.region, "stack_name": stack.stack_name}
    (tmp_path / "stack.json").write_text(json.dumps(known))
    command = [sys.executable, "-m", "tools.restore_drill", "--state", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MiniStack keeps no history" in done.stdout
    assert "usage 90, balance 9.00" in done.stdout
    counts = re.findall(r"spoilt (\d+) items|(\d+) items put, (\d+) deleted", done.stdout)
    spoilt, put, deleted = (int(number) for found in counts for number in found if number)
    assert spoilt > put > 20
    assert deleted > 0
    assert "verified: usage, wallet, ledger, invoices and errors are what they were" in done.stdout
    dynamodb = boto3.client("dynamodb", **stack.aws)
    assert not [name for name in dynamodb.list_tables()["TableNames"] if "drill" in name]
    assert dynamodb.list_backups()["BackupSummaries"] == []
