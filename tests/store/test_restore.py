"""What a restore writes into the tables in use; on moto."""

import io
import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import httpx
import pytest

from tollgate.kernel.time import parse_time
from tools import ToolError
from tools import restore as tool
from tools.restore_drill import Customer

LIVE, RESTORED = "tollgate-test-usage", "restored"


@pytest.fixture
def dynamodb(tables: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tables, and one with what was restored of one of them."""
    assert tables is None
    monkeypatch.setattr(tool, "SEGMENTS", 1)  # moto is not thread-safe
    client = boto3.client("dynamodb")
    keys = [("pk", "HASH"), ("sk", "RANGE")]
    client.create_table(
        TableName=RESTORED,
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name, _ in keys],
        KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in keys],
        BillingMode="PAY_PER_REQUEST",
    )
    return client


def put(dynamodb: Any, table: str, **quantities: int) -> None:
    """Items of a table, by their keys."""
    for key, quantity in quantities.items():
        item = {"pk": {"S": key}, "sk": {"S": "x"}, "quantity": {"N": str(quantity)}}
        dynamodb.put_item(TableName=table, Item=item)


def held(dynamodb: Any, table: str) -> dict[str, int]:
    """What a table holds."""
    return {item["pk"]["S"]: int(item["quantity"]["N"]) for item in tool.scan(dynamodb, table)}


def test_a_table_holds_again_what_it_held_and_only_differences_are_written(dynamodb: Any) -> None:
    """One item is as it was, one has changed, one is gone, one has come."""
    put(dynamodb, RESTORED, same=1, changed=2, gone=3)
    put(dynamodb, LIVE, same=1, changed=22, come=4)
    assert tool.copy_back(dynamodb, RESTORED, LIVE) == tool.Copied(put=2, deleted=1)
    assert held(dynamodb, LIVE) == held(dynamodb, RESTORED) == {"same": 1, "changed": 2, "gone": 3}
    assert tool.copy_back(dynamodb, RESTORED, LIVE) == tool.Copied(0, 0)


def test_more_items_than_a_request_takes_are_copied_back(dynamodb: Any) -> None:
    """More than are read, and more than are written, at once."""
    wanted = {f"k{number}": number for number in range(130)}
    put(dynamodb, RESTORED, **wanted)
    assert tool.copy_back(dynamodb, RESTORED, LIVE).put == 130
    assert held(dynamodb, LIVE) == wanted


def test_what_is_not_meant_stays_as_it_is(dynamodb: Any) -> None:
    """Others have gone on meanwhile."""
    put(dynamodb, RESTORED, ours=1, theirs=2)
    put(dynamodb, LIVE, ours=11, theirs=22, theirs_too=3)
    done = tool.copy_back(dynamodb, RESTORED, LIVE, lambda item: item["pk"]["S"].startswith("ours"))
    assert done == tool.Copied(put=1)
    assert held(dynamodb, LIVE) == {"ours": 1, "theirs": 22, "theirs_too": 3}


def test_a_table_without_point_in_time_recovery_says_so(dynamodb: Any) -> None:
    """Before anything is restored."""
    with pytest.raises(ToolError, match="no point-in-time recovery"):
        tool.restore(dynamodb, {"UsageTable": LIVE}, parse_time("2026-11-01T00:00:00Z"))


def test_a_table_that_was_restored_to_that_second_before_is_taken(dynamodb: Any) -> None:
    """So that one may look at it, and then have it copied back."""
    enabled = {"PointInTimeRecoveryEnabled": True}
    dynamodb.update_continuous_backups(TableName=LIVE, PointInTimeRecoverySpecification=enabled)
    put(dynamodb, LIVE, ours=1)
    at = parse_time("2026-11-01T12:00:00Z")
    for _ in range(2):
        made = tool.restore(dynamodb, {"UsageTable": LIVE}, at)
        assert made == {LIVE: f"{LIVE}-20261101T120000"}
        assert held(dynamodb, made[LIVE]) == {"ours": 1}
        put(dynamodb, LIVE, ours=2)


def test_a_stack_is_restored_only_when_its_name_is_given_again(
    dynamodb: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is copied back on a wrong answer; all of it on the right one."""
    names = {name: f"tollgate-test-{name.removesuffix('Table').lower()}" for name in tool.TABLES}
    monkeypatch.setattr(tool, "site_of", lambda _: tool.Site({}, names, ""))
    monkeypatch.setattr(tool, "restore", lambda *_: {LIVE: RESTORED})
    put(dynamodb, RESTORED, ours=1)
    asked = ["--stack", "tollgate-prod", "--at", "2026-11-01T00:00:00Z", "--copy-back"]
    monkeypatch.setattr("builtins.input", lambda _: "tollgate")
    assert tool.main(asked) == 1
    assert held(dynamodb, LIVE) == {}
    monkeypatch.setattr("builtins.input", lambda _: "tollgate-prod")
    assert tool.main(asked) == 0
    assert held(dynamodb, LIVE) == {"ours": 1}
    assert f"{LIVE}: 1 items put back, 0 deleted" in capsys.readouterr().out


def test_without_an_answer_nothing_is_copied_back(
    dynamodb: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nobody is there to give it; that is said, and no traceback shown."""
    names = dict.fromkeys(tool.TABLES, LIVE)
    monkeypatch.setattr(tool, "site_of", lambda _: tool.Site({}, names, ""))
    monkeypatch.setattr(tool, "restore", lambda *_: {LIVE: RESTORED})
    monkeypatch.setattr("sys.stdin", io.StringIO())
    put(dynamodb, RESTORED, ours=1)
    assert tool.main(["--stack", "tollgate-prod", "--at", "2026-11-01T00:00:00Z", "--copy-back"]) == 1
    assert "nothing was copied back" in capsys.readouterr().out
    assert held(dynamodb, LIVE) == {}


def test_a_time_that_lies_ahead_is_refused_and_not_waited_for(dynamodb: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slip of the year would be waited for for half a day."""
    enabled = {"PointInTimeRecoveryEnabled": True}
    dynamodb.update_continuous_backups(TableName=LIVE, PointInTimeRecoverySpecification=enabled)
    monkeypatch.setattr(tool, "PATIENCE", timedelta(0))
    with pytest.raises(ToolError, match="lies ahead"):
        tool.restore(dynamodb, {"UsageTable": LIVE}, datetime.now(UTC) + timedelta(days=365))


def test_when_one_part_fails_the_others_stop() -> None:
    """As when somebody interrupts: hours more of copying are not waited for."""
    seen = itertools.count()

    class Scanned:
        def get_paginator(self, _: str) -> "Scanned":
            return self

        def paginate(self, *, Segment: int, **_: Any) -> Iterator[dict[str, Any]]:  # noqa: N803 - as boto3 names it
            if Segment == 0:
                raise ToolError("this part fails")
            for _page in range(1_000_000):
                next(seen)
                yield {"Items": [{"pk": {"S": "a"}, "sk": {"S": "b"}}]}

    with pytest.raises(ToolError, match="this part fails"):
        tool.copy_back(Scanned(), RESTORED, LIVE, lambda _: False)  # type: ignore[arg-type]
    assert next(seen) < 1_000_000


def test_the_drill_owns_what_names_its_customer_and_nothing_else() -> None:
    """Before it has an error too: what it owns it spoils."""
    with httpx.Client(
        base_url="http://tollgate", transport=httpx.MockTransport(lambda _: httpx.Response(200, json={}))
    ) as api:
        owns = Customer(api, "drill-1").owns()
    assert owns({"pk": {"S": "WALLET#drill-1"}, "sk": {"S": "W"}})
    assert not owns({"pk": {"S": "WALLET#acme"}, "sk": {"S": "W"}})
