"""Billing runs in DynamoDB: the billing table.

pk               sk                what
RUN#id           RUN               a billing run
RUN#id           SUBSCRIPTION#id   what came of a subscription in it
"""

from collections.abc import Iterator
from datetime import UTC

from pynamodb.attributes import (
    BooleanAttribute,
    NumberAttribute,
    UnicodeAttribute,
    UnicodeSetAttribute,
    UTCDateTimeAttribute,
)
from pynamodb.expressions.update import Action

from tollgate.billing.runs import Result, Run
from tollgate.kernel.dynamodb import BillingTable, connect, read_item, write_all

__all__ = ["DynamoRuns"]

_RESULT = "SUBSCRIPTION#"


class RunItem(BillingTable, discriminator="run"):
    """A run."""

    as_of = UTCDateTimeAttribute()
    started_at = UTCDateTimeAttribute()
    actor = UnicodeAttribute()
    asked_for = UTCDateTimeAttribute(null=True)
    found = NumberAttribute(null=True)


class ResultItem(BillingTable, discriminator="run_result"):
    """What came of a subscription."""

    invoices = UnicodeSetAttribute(null=True)
    error = UnicodeAttribute(null=True)
    is_done = BooleanAttribute()


class DynamoRuns:
    """The `Runs` of the deployment."""

    def run(self, run_id: str) -> Run | None:
        """The run, if there is one."""
        item = read_item(RunItem, f"RUN#{run_id}", "RUN")
        if item is None:
            return None
        found = None if item.found is None else int(item.found)
        asked_for = item.asked_for.astimezone(UTC) if item.asked_for else None
        return Run(run_id, item.as_of.astimezone(UTC), item.started_at.astimezone(UTC), item.actor, found, asked_for)

    def begin(self, run: Run) -> bool:
        """Write a new run; False when its id is taken."""
        return write_all([(_item(run), RunItem.pk.does_not_exist())])

    def found(self, run: Run) -> None:
        """Write how many subscriptions a run has found."""
        connect(BillingTable)
        _item(run).save()

    def record(self, run_id: str, result: Result) -> None:
        """Write what came of a subscription: its invoices are added to those known, else the last word counts."""
        connect(BillingTable)
        error = ResultItem.error
        actions: list[Action] = [
            ResultItem.kind.set(ResultItem),
            ResultItem.is_done.set(result.is_done),
            error.set(result.error) if result.error is not None else error.remove(),
        ]
        if result.invoices:
            actions.append(ResultItem.invoices.add(set(result.invoices)))
        ResultItem(f"RUN#{run_id}", f"{_RESULT}{result.subscription}").update(actions)

    def results(self, run_id: str) -> Iterator[Result]:
        """What came of the subscriptions so far, by subscription."""
        connect(BillingTable)
        for item in ResultItem.query(f"RUN#{run_id}", ResultItem.sk.startswith(_RESULT), consistent_read=True):
            invoices = tuple(sorted(item.invoices or ()))
            yield Result(item.sk.removeprefix(_RESULT), invoices, item.error, bool(item.is_done))


def _item(run: Run) -> RunItem:
    return RunItem(
        f"RUN#{run.id}",
        "RUN",
        as_of=run.as_of,
        started_at=run.started_at,
        actor=run.actor,
        asked_for=run.asked_for,
        found=run.found,
    )
