"""The usual ways to count events on DynamoDB, each in its cheapest form: what ours is measured against.

They deduplicate and add; none of them archives, tells a conflict from a duplicate or counts by hour.
"""

import itertools
import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

from tollgate.kernel.dynamodb import UsageTable, connect

__all__ = ["DESIGNS"]

_MARKERS: Final = 99
"""A transaction takes 100 items, one of which is the counter."""

Item = dict[str, Any]


def record_then_add(body: str) -> None:
    """An idempotency record per event, put on condition that it is new; then the counter is added to."""
    client: Any = connect(UsageTable).client
    for event in json.loads(body):
        client.put_item(**_marker(event))
        client.update_item(**_addition(event, _quantity(event)))


def record_add_then_complete(body: str) -> None:
    """The record is claimed, the counter added to, and the record marked as done, as idempotency libraries do."""
    client: Any = connect(UsageTable).client
    for event in json.loads(body):
        marker = _marker(event)
        client.put_item(**marker)
        client.update_item(**_addition(event, _quantity(event)))
        client.put_item(TableName=marker["TableName"], Item=marker["Item"] | {"done": {"BOOL": True}})


def marker_and_counter(body: str) -> None:
    """A transaction per event."""
    client: Any = connect(UsageTable).client
    for event in json.loads(body):
        put, update = {"Put": _marker(event)}, {"Update": _addition(event, _quantity(event))}
        client.transact_write_items(TransactItems=[put, update])


def markers_and_counter(body: str) -> None:
    """A transaction of up to 99 markers and the counter."""
    client: Any = connect(UsageTable).client
    for events in _chunks(json.loads(body)):
        puts = [{"Put": _marker(event)} for event in events]
        update = {"Update": _addition(events[0], sum(map(_quantity, events), Decimal(0)))}
        client.transact_write_items(TransactItems=[*puts, update])


DESIGNS: Final[Mapping[str, Callable[[str], None]]] = {
    "idempotency record per event, then ADD": record_then_add,
    "the same, and the record marked as done": record_add_then_complete,
    "transaction of marker and counter per event": marker_and_counter,
    "transaction of up to 99 markers and the counter": markers_and_counter,
}
"""Each counts the events of a request of one customer and feature."""


def _chunks(events: list[Item]) -> list[list[Item]]:
    iterator = iter(events)
    return list(iter(lambda: list(itertools.islice(iterator, _MARKERS)), []))


def _marker(event: Item) -> Item:
    return {
        "TableName": UsageTable.Meta.table_name,
        "Item": {"pk": {"S": f"SEEN#{event['source']}#{event['id']}"}, "sk": {"S": "SEEN"}, "ttl": {"N": "1800000000"}},
        "ConditionExpression": "attribute_not_exists(pk)",
    }


def _addition(event: Item, quantity: Decimal) -> Item:
    return {
        "TableName": UsageTable.Meta.table_name,
        "Key": {"pk": {"S": f"PLAIN#{event['subject']}#{event['type']}"}, "sk": {"S": "COUNTER"}},
        "UpdateExpression": "ADD quantity :quantity",
        "ExpressionAttributeValues": {":quantity": {"N": str(quantity)}},
    }


def _quantity(event: Item) -> Decimal:
    return Decimal(event["data"]["quantity"])
