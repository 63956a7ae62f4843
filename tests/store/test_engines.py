"""What we lean on in DynamoDB, on the engine that the tests run on; docs/engines.md has the table.

Where an engine is known to differ, the test is that it still does: one that gets it right, or another thing wrong,
shows.
"""

import os
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.conftest import ROOT
from tests.store.engines import ENGINE

Table = str
Behaviour = Callable[[Any, Table], None]

BEHAVIOURS: dict[str, Behaviour] = {}
"""By what DynamoDB does, in the words of the table."""

NONE = "no transactions"
DIFFERS: dict[str, dict[str, str]] = {
    "moto": {
        "a transaction that is repeated with its token is written once": "written again",
        "a number of 39 digits is refused": "taken",
        "an item has 400 KB at most, by put and by update": "405,000 bytes",
        "an expression has 300 operators and 4 KB at most": "taken",
        "a batch has 100 reads or 25 writes at most, no item twice": "taken",
        "a write costs a unit per KB of the whole item, twice in a transaction": "always 1",
        "a read costs a unit per 4 KB, half if it is not consistent": "always 0.5",
    },
    "ministack": {
        "an expression changes no path twice, nor one within another": "taken",
        "an expression has 300 operators and 4 KB at most": "taken",
        "a batch of reads stops at 16 MB and says what is left": "reads on",
        "a read costs a unit per 4 KB, half if it is not consistent": "1 or 0.5, whatever the size",
    },
    "dynalite": {
        "a failed condition gives the old item and writes nothing": "no old item",
        "a transaction is written whole or not at all; its reasons come in the order of its actions": NONE,
        "a transaction's reason has the old item, if it is asked for": NONE,
        "a transaction names no item twice": NONE,
        "a transaction has 100 actions at most": NONE,
        "a transaction that is repeated with its token is written once": NONE,
        "a transaction of reads answers in the order asked, with nothing for what is not there": NONE,
        "an expression has 300 operators and 4 KB at most": "taken",
        "an index's key is no empty string": "taken",
        "a write costs a unit per KB of the whole item, twice in a transaction": NONE,
    },
}
"""What an engine does instead, by behaviour; DynamoDB's own differs in nothing."""

KEY = {"pk": {"S": "a"}, "sk": {"S": "b"}}
OTHER = {"pk": {"S": "a"}, "sk": {"S": "c"}}


def behaviour(name: str) -> Callable[[Behaviour], Behaviour]:
    """Names one."""

    def add(function: Behaviour) -> Behaviour:
        BEHAVIOURS[name] = function
        return function

    return add


# Conditions and transactions


@behaviour("a failed condition gives the old item and writes nothing")
def _(client: Any, table: Table) -> None:
    put(client, table, n={"N": "1"})
    error = refused(
        client.update_item,
        TableName=table,
        Key=KEY,
        UpdateExpression="ADD n :n",
        ConditionExpression="n < :n",
        ExpressionAttributeValues={":n": {"N": "1"}},
        ReturnValuesOnConditionCheckFailure="ALL_OLD",
    )
    assert error["Error"]["Code"] == "ConditionalCheckFailedException"
    assert error["Item"]["n"] == read(client, table)["n"] == {"N": "1"}


@behaviour("a transaction is written whole or not at all; its reasons come in the order of its actions")
def _(client: Any, table: Table) -> None:
    put(client, table)
    error = refused(client.transact_write_items, TransactItems=[new(table, OTHER), new(table, KEY), check(table)])
    assert error["Error"]["Code"] == "TransactionCanceledException"
    codes = [reason["Code"] for reason in error["CancellationReasons"]]
    assert codes == ["None", "ConditionalCheckFailed", "None"]
    assert read(client, table, OTHER) is None


@behaviour("a transaction's reason has the old item, if it is asked for")
def _(client: Any, table: Table) -> None:
    put(client, table, n={"N": "1"})
    action = new(table, KEY, ReturnValuesOnConditionCheckFailure="ALL_OLD")
    error = refused(client.transact_write_items, TransactItems=[action])
    assert error["CancellationReasons"][0]["Item"]["n"] == {"N": "1"}


@behaviour("a transaction names no item twice")
def _(client: Any, table: Table) -> None:
    error = refused(client.transact_write_items, TransactItems=[new(table, KEY), new(table, KEY)])
    assert error["Error"]["Code"] == "ValidationException"


@behaviour("a transaction has 100 actions at most")
def _(client: Any, table: Table) -> None:
    actions = [new(table, {**KEY, "sk": {"S": str(n)}}) for n in range(101)]
    client.transact_write_items(TransactItems=actions[:100])
    assert refused(client.transact_write_items, TransactItems=actions)["Error"]["Code"] == "ValidationException"


@behaviour("a transaction that is repeated with its token is written once")
def _(client: Any, table: Table) -> None:
    update = {"TableName": table, "Key": KEY, "UpdateExpression": "ADD n :n"}
    action = {"Update": update | {"ExpressionAttributeValues": {":n": {"N": "1"}}}}
    for _ in range(2):
        client.transact_write_items(TransactItems=[action], ClientRequestToken="token-of-this-test")
    assert read(client, table)["n"] == {"N": "1"}


@behaviour("a transaction of reads answers in the order asked, with nothing for what is not there")
def _(client: Any, table: Table) -> None:
    put(client, table)
    gets = [{"Get": {"TableName": table, "Key": key}} for key in (OTHER, KEY)]
    answers = client.transact_get_items(TransactItems=gets)["Responses"]
    assert [answer.get("Item") for answer in answers] == [None, KEY]


# Updates


@behaviour("ADD starts at 0 and makes the item")
def _(client: Any, table: Table) -> None:
    add(client, table, "5")
    add(client, table, "-2")
    assert read(client, table) == {**KEY, "n": {"N": "3"}}


@behaviour("ADD joins sets, DELETE takes from them, and an empty one is gone")
def _(client: Any, table: Table) -> None:
    for expression in ("ADD s :s", "ADD s :s", "DELETE s :s"):
        client.update_item(
            TableName=table, Key=KEY, UpdateExpression=expression, ExpressionAttributeValues={":s": {"SS": ["x"]}}
        )
        assert ("s" in read(client, table)) == expression.startswith("ADD")


@behaviour("SET reads the item as it was before, if_not_exists and arithmetic too")
def _(client: Any, table: Table) -> None:
    put(client, table, a={"N": "1"})
    client.update_item(
        TableName=table,
        Key=KEY,
        UpdateExpression="SET a = a + :n, b = a, c = if_not_exists(a, :n), d = if_not_exists(e, :n) - a",
        ExpressionAttributeValues={":n": {"N": "5"}},
    )
    after = read(client, table)
    assert [after[name]["N"] for name in "abcd"] == ["6", "1", "1", "4"]


@behaviour("an expression changes no path twice, nor one within another")
def _(client: Any, table: Table) -> None:
    for expression in ("SET a = :n, a = :n", "SET a = :n, a.b = :n"):
        error = refused(
            client.update_item,
            TableName=table,
            Key=KEY,
            UpdateExpression=expression,
            ExpressionAttributeValues={":n": {"N": "1"}},
        )
        assert error["Error"]["Code"] == "ValidationException"


@behaviour("ALL_NEW is the item as this update left it, UPDATED_OLD what it changed")
def _(client: Any, table: Table) -> None:
    add(client, table, "1", o={"S": "x"})
    assert add(client, table, "1", ReturnValues="ALL_NEW")["Attributes"]["n"] == {"N": "2"}
    assert add(client, table, "1", ReturnValues="UPDATED_OLD")["Attributes"] == {"n": {"N": "2"}}


# Values


@behaviour("numbers have 38 digits, in arithmetic too")
def _(client: Any, table: Table) -> None:
    add(client, table, "9" * 37 + "8")
    add(client, table, "1")
    assert read(client, table)["n"] == {"N": "9" * 38}
    put(client, table, n={"N": "0." + "3" * 38})
    assert read(client, table)["n"] == {"N": "0." + "3" * 38}


@behaviour("a number of 39 digits is refused")
def _(client: Any, table: Table) -> None:
    error = refused(client.put_item, TableName=table, Item={**KEY, "n": {"N": "1" * 39}})
    assert error["Error"]["Code"] == "ValidationException"


@behaviour("empty strings are kept, in keys refused")
def _(client: Any, table: Table) -> None:
    put(client, table, text={"S": ""})
    assert read(client, table)["text"] == {"S": ""}
    error = refused(client.put_item, TableName=table, Item={**KEY, "sk": {"S": ""}})
    assert error["Error"]["Code"] == "ValidationException"


@behaviour("empty sets are refused")
def _(client: Any, table: Table) -> None:
    error = refused(client.put_item, TableName=table, Item={**KEY, "s": {"SS": []}})
    assert error["Error"]["Code"] == "ValidationException"


@behaviour("bytes come back as they were")
def _(client: Any, table: Table) -> None:
    put(client, table, b={"B": bytes(range(256))}, l={"L": [{"B": b"\0"}]})
    assert read(client, table)["b"] == {"B": bytes(range(256))}
    assert read(client, table)["l"] == {"L": [{"B": b"\0"}]}


# Limits


@behaviour("an item has 400 KB at most, by put and by update")
def _(client: Any, table: Table) -> None:
    room = 400 * 1024 - len("pkaskbtext")
    put(client, table, text={"S": "x" * room})
    error = refused(client.put_item, TableName=table, Item={**KEY, "text": {"S": "x" * (room + 1)}})
    assert error["Error"]["Code"] == "ValidationException"
    grow = {"TableName": table, "Key": KEY, "UpdateExpression": "SET m = :m"}
    error = refused(client.update_item, **grow, ExpressionAttributeValues={":m": {"S": "x"}})
    assert error["Error"]["Code"] == "ValidationException"


@behaviour("partition keys have 2,048 bytes at most, sort keys 1,024")
def _(client: Any, table: Table) -> None:
    for name, most in (("pk", 2_048), ("sk", 1_024)):
        client.put_item(TableName=table, Item={**KEY, name: {"S": "x" * most}})
        error = refused(client.put_item, TableName=table, Item={**KEY, name: {"S": "x" * (most + 1)}})
        assert error["Error"]["Code"] == "ValidationException"


@behaviour("an expression has 300 operators and 4 KB at most")
def _(client: Any, table: Table) -> None:
    for expression in ("n=:n OR " * 150 + "n=:n", " " * 4_096 + "n = :n"):
        error = refused(
            client.put_item,
            TableName=table,
            Item=KEY,
            ConditionExpression=expression,
            ExpressionAttributeValues={":n": {"N": "1"}},
        )
        assert error["Error"]["Code"] == "ValidationException"


@behaviour("a batch has 100 reads or 25 writes at most, no item twice")
def _(client: Any, table: Table) -> None:
    keys = [{**KEY, "sk": {"S": str(n)}} for n in range(101)]
    for wanted in (keys, keys[:1] * 2):
        error = refused(client.batch_get_item, RequestItems={table: {"Keys": wanted}})
        assert error["Error"]["Code"] == "ValidationException"
    for items in (keys[:26], keys[:1] * 2):
        puts = [{"PutRequest": {"Item": item}} for item in items]
        error = refused(client.batch_write_item, RequestItems={table: puts})
        assert error["Error"]["Code"] == "ValidationException"


@behaviour("a batch of reads stops at 16 MB and says what is left")
def _(client: Any, table: Table) -> None:
    keys = large_items(client, table, 45)
    answer = client.batch_get_item(RequestItems={table: {"Keys": keys}})
    read_now, left = len(answer["Responses"][table]), answer.get("UnprocessedKeys", {})
    assert 0 < read_now < 45
    assert read_now + len(left[table]["Keys"]) == 45


# Queries and indexes


@behaviour("a page of a query ends at 1 MB and says where to go on")
def _(client: Any, table: Table) -> None:
    large_items(client, table, 4)
    asked = {"KeyConditionExpression": "pk = :pk", "ExpressionAttributeValues": {":pk": {"S": "large"}}}
    first = client.query(TableName=table, **asked)
    assert 2 <= len(first["Items"]) <= 3
    rest = client.query(TableName=table, **asked, ExclusiveStartKey=first["LastEvaluatedKey"])
    assert [item["sk"]["S"] for item in first["Items"] + rest["Items"]] == ["000", "001", "002", "003"]
    assert "LastEvaluatedKey" not in rest


@behaviour("a limit counts what is read, not what a filter leaves")
def _(client: Any, table: Table) -> None:
    for n in range(3):
        put(client, table, sk={"S": str(n)}, n={"N": str(n)})
    answer = client.query(
        TableName=table,
        KeyConditionExpression="pk = :pk",
        FilterExpression="n > :n",
        ExpressionAttributeValues={":pk": KEY["pk"], ":n": {"N": "1"}},
        Limit=2,
    )
    assert (answer["Items"], answer["ScannedCount"]) == ([], 2)
    assert answer["LastEvaluatedKey"] == {**KEY, "sk": {"S": "1"}}


@behaviour("sort keys are ordered by their bytes, both ways")
def _(client: Any, table: Table) -> None:
    for text in ("Z", "a", "é", "😀", "�", "#"):
        put(client, table, sk={"S": text})
    asked = {"KeyConditionExpression": "pk = :pk", "ExpressionAttributeValues": {":pk": KEY["pk"]}}
    for forward in (True, False):
        found = client.query(TableName=table, ScanIndexForward=forward, **asked)["Items"]
        assert [item["sk"]["S"] for item in found] == ["#", "Z", "a", "é", "�", "😀"][:: 1 if forward else -1]


@behaviour("an index has only items with its keys, and of them what it projects")
def _(client: Any, table: Table) -> None:
    put(client, table, n={"N": "1"})
    put(client, table, sk={"S": "due"}, n={"N": "1"}, due_shard={"S": "0"}, due_at={"S": "2026"})
    [item] = due(client, table)["Items"]
    assert item == {"pk": {"S": "a"}, "sk": {"S": "due"}, "due_shard": {"S": "0"}, "due_at": {"S": "2026"}}


@behaviour("an index cannot be read consistently")
def _(client: Any, table: Table) -> None:
    error = refused(due, client=client, table=table, ConsistentRead=True)
    assert error["Error"]["Code"] == "ValidationException"


@behaviour("an index's key is no empty string")
def _(client: Any, table: Table) -> None:
    item = {**KEY, "due_shard": {"S": ""}, "due_at": {"S": "2026"}}
    assert refused(client.put_item, TableName=table, Item=item)["Error"]["Code"] == "ValidationException"


# What is billed


@behaviour("a write costs a unit per KB of the whole item, twice in a transaction")
def _(client: Any, table: Table) -> None:
    item = {**KEY, "text": {"S": "x" * 5_000}}
    single = client.put_item(TableName=table, Item=item, ReturnConsumedCapacity="TOTAL")
    assert single["ConsumedCapacity"]["CapacityUnits"] == 5
    action = [{"Put": {"TableName": table, "Item": item}}]
    both = client.transact_write_items(TransactItems=action, ReturnConsumedCapacity="TOTAL")
    assert both["ConsumedCapacity"][0]["CapacityUnits"] == 10


@behaviour("a read costs a unit per 4 KB, half if it is not consistent")
def _(client: Any, table: Table) -> None:
    put(client, table, text={"S": "x" * 5_000})
    units = [
        client.get_item(TableName=table, Key=KEY, ConsistentRead=strong, ReturnConsumedCapacity="TOTAL")
        for strong in (True, False)
    ]
    assert [answer["ConsumedCapacity"]["CapacityUnits"] for answer in units] == [2, 1]


def put(client: Any, table: Table, **attributes: Any) -> None:
    """Put the item, with attributes."""
    client.put_item(TableName=table, Item={**KEY, **attributes})


def add(client: Any, table: Table, number: str, **more: Any) -> Any:
    """Add to the item's n; what else is given in lower case is set, the rest is of the request."""
    values = {f":{name}": value for name, value in more.items() if name.islower()}
    names = "".join(f" SET {name} = :{name}" for name in more if name.islower())
    request = {name: value for name, value in more.items() if not name.islower()}
    return client.update_item(
        TableName=table,
        Key=KEY,
        UpdateExpression=f"ADD n :n{names}",
        ExpressionAttributeValues={":n": {"N": number}, **values},
        **request,
    )


def read(client: Any, table: Table, key: dict[str, Any] | None = None) -> Any:
    """The item, or another, as the last write left it."""
    return client.get_item(TableName=table, Key=key or KEY, ConsistentRead=True).get("Item")


def new(table: Table, item: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An action that puts an item that is not there."""
    return {"Put": {"TableName": table, "Item": item, "ConditionExpression": "attribute_not_exists(pk)", **more}}


def check(table: Table) -> dict[str, Any]:
    """An action that wants another item absent."""
    key = {**KEY, "sk": {"S": "absent"}}
    return {"ConditionCheck": {"TableName": table, "Key": key, "ConditionExpression": "attribute_not_exists(pk)"}}


def due(client: Any, table: Table, **more: Any) -> Any:
    """What the index "due" has."""
    return client.query(
        TableName=table,
        IndexName="due",
        KeyConditionExpression="due_shard = :s",
        ExpressionAttributeValues={":s": {"S": "0"}},
        **more,
    )


def large_items(client: Any, table: Table, number: int) -> list[dict[str, Any]]:
    """Put items of 390 KB: their keys."""
    keys = [{"pk": {"S": "large"}, "sk": {"S": f"{n:03}"}} for n in range(number)]
    for key in keys:
        client.put_item(TableName=table, Item={**key, "text": {"S": "x" * 390_000}})
    return keys


def refused(call: Callable[..., Any], **request: Any) -> Any:
    """What a request is refused with."""
    with pytest.raises(ClientError) as error:
        call(**request)
    return error.value.response


@pytest.fixture
def client(tables: None) -> Any:  # noqa: ARG001 - the tables are there
    """A client that hears of each refusal at once."""
    return boto3.client("dynamodb", config=Config(retries={"total_max_attempts": 1}))


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_what_we_lean_on(client: Any, name: str, record_property: Callable[[str, object], None]) -> None:
    """The engine does as DynamoDB does, or differs as it is known to."""
    known = DIFFERS.get(ENGINE, {}).get(name)
    record_property("behaviour", f"{ENGINE}: {name}: {known or 'yes'}")
    if known is None:
        BEHAVIOURS[name](client, os.environ["USAGE_TABLE"])
    else:
        with pytest.raises((AssertionError, ClientError, KeyError, pytest.fail.Exception)):
            BEHAVIOURS[name](client, os.environ["USAGE_TABLE"])


def test_what_differs_is_of_what_we_lean_on() -> None:
    """By the same words."""
    assert {name for differs in DIFFERS.values() for name in differs} <= set(BEHAVIOURS)


def test_the_table_in_the_docs_is_what_is_known() -> None:
    """docs/engines.md, line by line."""
    table = "\n".join(table_of_engines())
    assert table in (ROOT / "docs/engines.md").read_text(), f"it should be\n{table}"


def table_of_engines() -> list[str]:
    """The table, in Markdown."""
    rows = [
        " | ".join([f"| {name}", "yes", *(differs.get(name, "yes") for differs in DIFFERS.values())]) + " |"
        for name in BEHAVIOURS
    ]
    return [f"| | DynamoDB | {' | '.join(DIFFERS)} |", f"|{' --- |' * (len(DIFFERS) + 2)}", *rows]
