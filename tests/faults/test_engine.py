"""What the fault tests and the benchmarks lean on in MiniStack's DynamoDB."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from tests.conftest import create_tables
from tools.engine import Call, Engine, Refused, engine

KEY = {"pk": {"S": "a"}, "sk": {"S": "b"}}


@pytest.fixture(scope="module")
def database() -> Iterator[Engine]:
    """An engine that counts units."""
    with engine(create_tables) as it:
        yield it


@pytest.fixture
def client(database: Engine) -> Iterator[Any]:
    """A client of our own, on the engine."""
    database.clear()
    made = boto3.client("dynamodb")
    with database.attached(made):
        yield made


@pytest.fixture
def table() -> str:
    """The usage table."""
    return os.environ["USAGE_TABLE"]


def add(client: Any, table: str, number: str = "1", **more: Any) -> Any:
    """Add to an item's n."""
    values = {":n": {"N": number}} | more.pop("values", {})
    return client.update_item(
        TableName=table, UpdateExpression="ADD n :n", ExpressionAttributeValues=values, **{"Key": KEY, **more}
    )


def read(client: Any, table: str) -> Any:
    """The item."""
    return client.get_item(TableName=table, Key=KEY, ConsistentRead=True).get("Item")


def test_sixteen_threads_add_exactly(client: Any, table: str) -> None:
    """Each call is one indivisible step."""
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: add(client, table), range(400)))
    assert read(client, table)["n"] == {"N": "400"}


def test_numbers_have_38_digits(client: Any, table: str) -> None:
    """Arithmetic is exact to the last of them."""
    add(client, table, "9" * 37 + "8")
    add(client, table)
    assert read(client, table)["n"] == {"N": "9" * 38}


def test_a_failed_condition_gives_the_old_item_and_writes_nothing(client: Any, table: str) -> None:
    """So that a reason needs no read."""
    add(client, table)
    with pytest.raises(ClientError) as error:
        add(
            client,
            table,
            ConditionExpression="n < :limit",
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
            values={":limit": {"N": "1"}},
        )
    assert error.value.response["Error"]["Code"] == "ConditionalCheckFailedException"
    assert error.value.response["Item"]["n"] == {"N": "1"}  # type: ignore[typeddict-item]
    assert read(client, table)["n"] == {"N": "1"}


def test_a_transaction_is_written_whole_or_not_at_all(client: Any, table: str) -> None:
    """The reasons come in the order of its actions."""
    add(client, table)
    put = {"Put": {"TableName": table, "Item": {"pk": {"S": "c"}, "sk": {"S": "d"}}}}
    check = {"ConditionCheck": {"TableName": table, "Key": KEY, "ConditionExpression": "attribute_not_exists(pk)"}}
    with pytest.raises(ClientError) as error:
        client.transact_write_items(TransactItems=[put, check])
    reasons = error.value.response["CancellationReasons"]
    assert [reason["Code"] for reason in reasons] == ["None", "ConditionalCheckFailed"]
    assert "Item" not in client.get_item(TableName=table, Key=put["Put"]["Item"])


def test_a_lost_answer_is_tried_again_by_botocore(client: Any, table: str, database: Engine) -> None:
    """The write has happened, and happens again: what is sent must be safe to repeat."""

    def lose(call: Call) -> None:
        if call.operation == "UpdateItem" and call.number % 2:
            raise ReadTimeoutError(endpoint_url="https://dynamodb.test", error="lost")

    with database.hooked(after=lose):
        add(client, table)
    assert read(client, table)["n"] == {"N": "2"}


def test_a_refused_call_writes_nothing(client: Any, table: str, database: Engine) -> None:
    """The error is the one asked for."""

    def refuse(call: Call) -> None:
        raise Refused(f"{call.operation}Refused")

    with database.hooked(before=refuse), pytest.raises(ClientError, match="UpdateItemRefused"):
        add(client, table)
    assert read(client, table) is None


def units(database: Engine) -> tuple[float, float]:
    """Write and read units since the last time."""
    total = database.total()
    database.units.clear()
    return total.write_units, total.read_units


def test_capacity_is_counted_by_size(client: Any, table: str, database: Engine) -> None:
    """Writes by started KB, twice in transactions; reads by 4 KB, half if eventual, whatever is shown of them."""
    item = {**KEY, "text": {"S": "x" * 5000}}
    client.put_item(TableName=table, Item=item)
    assert units(database) == (5, 0)
    client.transact_write_items(TransactItems=[{"Put": {"TableName": table, "Item": item}}])
    assert units(database) == (10, 0)
    read(client, table)
    client.get_item(TableName=table, Key=KEY, ProjectionExpression="pk")
    assert units(database) == (0, 2 + 1)
    missing = {"pk": {"S": "c"}, "sk": {"S": "d"}}
    client.batch_get_item(RequestItems={table: {"Keys": [KEY, missing], "ConsistentRead": True}})
    assert units(database) == (0, 2 + 1)
    client.query(
        TableName=table,
        KeyConditionExpression="pk = :pk",
        FilterExpression="#text = :text",
        ExpressionAttributeNames={"#text": "text"},
        ExpressionAttributeValues={":pk": KEY["pk"], ":text": {"S": ""}},
    )
    assert units(database) == (0, 1)


def test_a_failed_condition_costs_what_is_there(client: Any, table: str, database: Engine) -> None:
    """Twice so in a transaction."""
    put = {
        "TableName": table,
        "Item": {**KEY, "text": {"S": "x" * 3000}},
        "ConditionExpression": "attribute_not_exists(pk)",
    }
    client.put_item(**put)
    units(database)
    with pytest.raises(ClientError):
        client.put_item(**put)
    assert units(database) == (3, 0)
    with pytest.raises(ClientError):
        client.transact_write_items(TransactItems=[{"Put": put}])
    assert units(database) == (6, 0)


def test_the_time_to_live_takes_only_what_is_past(client: Any, table: str, database: Engine) -> None:
    """And only items that have one."""
    for sk, ttl in (("past", {"ttl": {"N": "100"}}), ("later", {"ttl": {"N": "101"}}), ("none", {})):
        client.put_item(TableName=table, Item={"pk": {"S": "a"}, "sk": {"S": sk}, **ttl})
    assert database.expire(table, 100) == 1
    assert {item["sk"]["S"] for item in client.scan(TableName=table)["Items"]} == {"later", "none"}


@pytest.mark.parametrize(
    "asked",
    [
        {"Key": KEY | {"sk": {"S": "x" * 1_025}}},
        {"ConditionExpression": "n=:n OR " * 150 + "n=:n"},
        {"ConditionExpression": " " * 4_096 + "n = :n"},
    ],
    ids=["long key", "many operators", "long expression"],
)
def test_what_dynamodb_refuses_is_refused(client: Any, table: str, asked: dict[str, Any]) -> None:
    """MiniStack takes it."""
    with pytest.raises(ClientError, match="ValidationException"):
        add(client, table, **asked)


def test_a_transaction_takes_a_hundred_actions(client: Any, table: str) -> None:
    """And no more."""
    puts = [{"Put": {"TableName": table, "Item": KEY | {"sk": {"S": f"{n}"}}}} for n in range(101)]
    client.transact_write_items(TransactItems=puts[:100])
    with pytest.raises(ClientError, match="ValidationException"):
        client.transact_write_items(TransactItems=puts)
