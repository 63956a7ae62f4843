"""Billing runs in DynamoDB: the billing table.

pk               sk                what
RUN#id           RUN               a billing run
RUN#id           SUBSCRIPTION#id   what came of a subscription in it
"""

from collections.abc import Iterator
from datetime import UTC

from pynamodb.attributes import ListAttribute, NumberAttribute, UnicodeAttribute, UTCDateTimeAttribute

from tollgate.billing.runs import Result, Run
from tollgate.kernel.dynamodb import BillingTable, connect, read_item, write_all

__all__ = ["DynamoRuns"]

_RESULT = "SUBSCRIPTION#"


class RunItem(BillingTable, discriminator="run"):
    """A run."""

    as_of = UTCDateTimeAttribute()
    started_at = UTCDateTimeAttribute()
    actor = UnicodeAttribute()
    found = NumberAttribute(null=True)


class ResultItem(BillingTable, discriminator="run_result"):
    """What came of a subscription."""

    invoices: ListAttribute[str] = ListAttribute()
    error = UnicodeAttribute(null=True)


class DynamoRuns:
    """The `Runs` of the deployment."""

    def run(self, run_id: str) -> Run | None:
        """The run, if there is one."""
        item = read_item(RunItem, f"RUN#{run_id}", "RUN")
        if item is None:
            return None
        found = None if item.found is None else int(item.found)
        return Run(run_id, item.as_of.astimezone(UTC), item.started_at.astimezone(UTC), item.actor, found)

    def begin(self, run: Run) -> bool:
        """Write a new run; False when its id is taken."""
        return write_all([(_item(run), RunItem.pk.does_not_exist())])

    def found(self, run: Run) -> None:
        """Write how many subscriptions a run has found."""
        connect(BillingTable)
        _item(run).save()

    def record(self, run_id: str, result: Result) -> None:
        """Write what came of a subscription; the last word counts."""
        connect(BillingTable)
        sk = f"{_RESULT}{result.subscription}"
        ResultItem(f"RUN#{run_id}", sk, invoices=list(result.invoices), error=result.error).save()

    def results(self, run_id: str) -> Iterator[Result]:
        """What came of the subscriptions so far, by subscription."""
        connect(BillingTable)
        for item in ResultItem.query(f"RUN#{run_id}", ResultItem.sk.startswith(_RESULT), consistent_read=True):
            yield Result(item.sk.removeprefix(_RESULT), tuple(item.invoices), item.error)


def _item(run: Run) -> RunItem:
    return RunItem(
        f"RUN#{run.id}",
        "RUN",
        as_of=run.as_of,
        started_at=run.started_at,
        actor=run.actor,
        found=run.found,
    )
