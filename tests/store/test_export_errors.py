"""The ledger of failed operations as JSON Lines."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from tests.store.test_recovery_store import MINUTE, begun, claimed, failed, new
from tests.unit.fakes_recovery import NOW
from tollgate.kernel.time import format_time
from tollgate.recovery.model import ErrorType, Status
from tollgate.recovery.store import DynamoRecovery
from tools import export_errors


@pytest.fixture
def ledger(tables: None, monkeypatch: pytest.MonkeyPatch) -> DynamoRecovery:
    """150 records a minute apart, one of which has been tried, and an operation that is no error yet."""
    assert tables is None
    ledger = DynamoRecovery()
    for number in range(150):
        kind = ErrorType.REFUND_ERROR if number % 50 == 0 else ErrorType.PAYMENT_FAILED
        ledger.put(new(f"err_{number:03}", type=kind, created_at=NOW + number * MINUTE))
    record = claimed(ledger, "err_149")
    ledger.change(record, failed(record, to=Status.MANUAL))
    ledger.put(begun("err_begun"))
    monkeypatch.setattr(export_errors, "open_ledger", lambda _stack, _state: ledger)
    return ledger


def export(path: Path, *arguments: str) -> list[dict[str, object]]:
    """What the command writes."""
    assert export_errors.main(["--output", str(path / "out.jsonl"), *arguments]) == 0
    return [json.loads(line) for line in (path / "out.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("ledger")
def test_all_records_are_exported_with_their_history_and_tries(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The newest first; the command says how many."""
    records = export(tmp_path)
    assert [one["id"] for one in records] == [f"err_{number:03}" for number in reversed(range(150))]
    history, tries = records[0]["history"], records[0]["tries"]
    assert isinstance(history, list)
    assert isinstance(tries, list)
    assert [entry["to"] for entry in history] == ["pending", "retrying", "manual"]
    assert [one["outcome"] for one in tries] == ["failed"]
    assert "150 records exported to" in capsys.readouterr().err


def test_what_was_exported_before_is_exported_again_as_it_was(ledger: DynamoRecovery, tmp_path: Path) -> None:
    """History and tries only grow."""
    [before] = export(tmp_path, "--status", "manual")
    record = claimed(ledger, "err_000")
    ledger.change(record, failed(record))
    [after] = export(tmp_path, "--status", "manual")
    assert after == before


@pytest.mark.usefixtures("ledger")
def test_an_export_takes_what_is_asked_for(tmp_path: Path) -> None:
    """By type, status, customer and time; the first instant included, the last one not."""
    assert [one["id"] for one in export(tmp_path, "--type", "refund_error")] == ["err_100", "err_050", "err_000"]
    assert export(tmp_path, "--customer", "nobody") == []
    since, until = (format_time(NOW + timedelta(minutes=number)) for number in (10, 12))
    assert [one["id"] for one in export(tmp_path, "--since", since, "--until", until)] == ["err_011", "err_010"]


@pytest.mark.usefixtures("ledger")
def test_without_a_file_the_records_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """And nothing else, so that another command can read them."""
    assert export_errors.main(["--status", "manual"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line)["id"] == "err_149"


def test_an_export_that_cannot_be_made_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On one line."""
    assert export_errors.main(["--state", str(tmp_path)]) == 1
    assert "make run" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        export_errors.main(["--since", "yesterday"])
    assert "RFC 3339" in capsys.readouterr().err
