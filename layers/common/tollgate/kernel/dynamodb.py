"""The four tables as PynamoDB base models, and what their items share.

A context's store.py derives one model per kind of item from the base of its table. PynamoDB makes a
botocore client (some 100 ms) per model class that has no connection to inherit, so `connect` makes the
base's first. The private parts of PynamoDB that we lean on are named in this file only.
"""

from decimal import Decimal
from typing import Final

from pynamodb.attributes import Attribute, DiscriminatorAttribute, UnicodeAttribute
from pynamodb.connection import Connection
from pynamodb.constants import NUMBER
from pynamodb.exceptions import PynamoDBException
from pynamodb.models import Model

from tollgate.kernel.settings import table_name

__all__ = [
    "LONGEST_CALL_SECONDS",
    "CatalogTable",
    "DecimalAttribute",
    "RecoveryTable",
    "UsageTable",
    "connect",
    "is_lost_race",
    "is_worth_retrying",
]

_LOST: Final = frozenset(
    {
        "ConditionalCheckFailed",
        "ConditionalCheckFailedException",
        "TransactionConflict",
        "TransactionConflictException",
        "TransactionInProgressException",
    }
)
_THROTTLED: Final = frozenset(
    {
        "ProvisionedThroughputExceeded",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ThrottlingError",
        "ThrottlingException",
    }
)


LONGEST_CALL_SECONDS: Final = 9
"""Two attempts of at most 4 seconds, and the pause between them."""


class _Meta:
    """Time-outs and retries, in place of botocore's 60 seconds: a call ends after `LONGEST_CALL_SECONDS`."""

    connect_timeout_seconds: Final = 1
    read_timeout_seconds: Final = 3
    max_retry_attempts: Final = 1
    max_pool_connections: Final = 32


class CatalogTable(Model):
    """Features, plans, customers, API keys: `pk` is the kind, `sk` the code or id."""

    class Meta(_Meta):
        """Named by the deployment."""

        table_name = table_name("catalog")

    pk = UnicodeAttribute(hash_key=True)
    sk = UnicodeAttribute(range_key=True)
    kind = DiscriminatorAttribute()


class UsageTable(Model):
    """Subscription snapshots, counters, dedupe pages and markers."""

    class Meta(_Meta):
        """Named by the deployment."""

        table_name = table_name("usage")

    pk = UnicodeAttribute(hash_key=True)
    sk = UnicodeAttribute(range_key=True)
    kind = DiscriminatorAttribute()


class RecoveryTable(Model):
    """Error records, their tries and their history."""

    class Meta(_Meta):
        """Named by the deployment."""

        table_name = table_name("recovery")

    pk = UnicodeAttribute(hash_key=True)
    sk = UnicodeAttribute(range_key=True)
    kind = DiscriminatorAttribute()


class DecimalAttribute(Attribute[Decimal]):
    """An exact number; PynamoDB's own NumberAttribute makes floats of fractions."""

    attr_type = NUMBER

    def serialize(self, value: Decimal) -> str:
        """Write all digits, with no exponent."""
        return f"{value:f}"

    def deserialize(self, value: str) -> Decimal:
        """Read all digits."""
        return Decimal(value)


def connect(table: type[Model]) -> Connection:
    """The connection that all models of a table share; transactions and sub-models go through it."""
    return table._get_connection().connection  # noqa: SLF001  there is no public way to it


def is_lost_race(error: PynamoDBException) -> bool:
    """Whether a failed write lost against another writer: a false condition, or a conflict.

    Of a transaction, all of its items that failed must have failed so.
    """
    codes = _codes(error)
    return bool(codes) and codes <= _LOST


def is_worth_retrying(error: PynamoDBException) -> bool:
    """Whether a failed write changed nothing, and may succeed when what it rests on is read again."""
    codes = _codes(error)
    return bool(codes) and codes <= _LOST | _THROTTLED


def _codes(error: PynamoDBException) -> set[str]:
    reasons = {reason.code for reason in getattr(error, "cancellation_reasons", ()) if reason}
    if reasons:
        return reasons
    # Not error.cause_response_code, which fails where there was no response, as after a time-out.
    response = getattr(error.cause, "response", None) or {}
    return {response["Error"]["Code"]} if "Error" in response else set()
