"""The four tables as PynamoDB base models, and what their items share.

A context's store.py derives one model per kind of item from the base of its table. PynamoDB makes a
botocore client (some 100 ms) per model class that has no connection to inherit, so `connect` makes the
base's first. The private parts of PynamoDB that we lean on are named in this file only.
"""

from decimal import Decimal
from typing import Any, Final

from pynamodb.attributes import Attribute, DiscriminatorAttribute, UnicodeAttribute
from pynamodb.connection import Connection
from pynamodb.constants import NUMBER
from pynamodb.models import Model

from tollgate.kernel.settings import table_name

__all__ = ["CatalogTable", "DecimalAttribute", "RecoveryTable", "UsageTable", "connect", "is_lost_race"]


class _Meta:
    """Time-outs and retries, in place of botocore's 60 seconds."""

    connect_timeout_seconds: Final = 1
    read_timeout_seconds: Final = 3
    max_retry_attempts: Final = 3
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
    return table._get_connection().connection  # noqa: SLF001


def is_lost_race(error: Any) -> bool:
    """Whether a failed write lost against another writer, so that reading again and retrying helps.

    Covers a false condition and a conflict, of a single write and of any item of a transaction.
    """
    lost = {
        "ConditionalCheckFailed",
        "TransactionConflict",
        "ConditionalCheckFailedException",
        "TransactionConflictException",
        "TransactionInProgressException",
    }
    reasons = [reason.code for reason in getattr(error, "cancellation_reasons", ()) if reason]
    return bool(reasons and set(reasons) <= lost) or error.cause_response_code in lost
