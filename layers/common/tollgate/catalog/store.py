"""The catalog in DynamoDB: the catalog table, and the customer snapshots of the usage table.

pk                     sk                what
FEATURE                code              a feature
PLAN                   code              the latest version of a plan
PLAN#code              0000000042        one version, never changed
CUSTOMER               id                a customer
KEY                    id                an API key (key_store.py)
SECRET                 cursor            signs cursors
WEBHOOK                ALL               all webhooks
CUSTOMER#id            SUBSCRIPTIONS     the snapshot of a customer          (usage table)
SUBSCRIPTION#id        OWNER             whose it is, how far it is billed   (usage table)
SUBSCRIPTION#id        HISTORY#00000042  a change in its life                (usage table)
ALERT#counter          threshold         whether it has been told            (usage table)
"""

import secrets
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from heapq import merge
from typing import Any, Final, TypeVar

from pynamodb.attributes import (
    BinaryAttribute,
    BooleanAttribute,
    JSONAttribute,
    NumberAttribute,
    UnicodeAttribute,
    UTCDateTimeAttribute,
    VersionAttribute,
)
from pynamodb.exceptions import GetError, PutError, TransactWriteError
from pynamodb.expressions.condition import Condition
from pynamodb.models import Model
from pynamodb.transactions import TransactWrite

from tollgate.catalog.deliveries import Lease
from tollgate.catalog.key_store import DynamoKeys
from tollgate.catalog.life import (
    SUBSCRIBED,
    Entry,
    Life,
    Standing,
    Who,
    created,
    due_at,
    entry_from_dict,
    entry_to_dict,
)
from tollgate.catalog.model import (
    Customer,
    Feature,
    Plan,
    Snapshot,
    Subscription,
    feature_from_dict,
    feature_to_dict,
    override_from_dict,
    override_to_dict,
    plan_from_dict,
    plan_to_dict,
    sharding_from_dict,
    sharding_to_dict,
    subscription_from_dict,
    subscription_to_dict,
    threshold_from_dict,
    threshold_to_dict,
)
from tollgate.catalog.webhooks import Webhook
from tollgate.kernel.dynamodb import CatalogTable, UsageTable, Write, connect, is_lost_race, list_items, write_all
from tollgate.kernel.errors import Unavailable
from tollgate.kernel.time import format_time, parse_time

__all__ = ["DUE_SHARDS", "DynamoCatalog", "DynamoOnce", "cursor_secret", "standing_write"]

DUE_SHARDS: Final = 8
"""Of the index of due subscriptions: some 8,000 changes a second."""

_LATEST: Final = "PLAN"
_READS: Final = 5
_Item = TypeVar("_Item", bound=Model)


class FeatureItem(CatalogTable, discriminator="feature"):
    """A feature."""

    name = UnicodeAttribute()
    type = UnicodeAttribute()
    unit = UnicodeAttribute(null=True)
    aggregation = UnicodeAttribute()
    dedupe = UnicodeAttribute()


class PlanItem(CatalogTable, discriminator="plan"):
    """A plan version, with the features as they were when it was made."""

    version = NumberAttribute()
    body = JSONAttribute()
    features = JSONAttribute()


class CustomerItem(CatalogTable, discriminator="customer"):
    """A customer."""

    body = JSONAttribute()


class SecretItem(CatalogTable, discriminator="secret"):
    """A secret of the deployment."""

    secret = BinaryAttribute(legacy_encoding=False)


class WebhooksItem(CatalogTable, discriminator="webhooks"):
    """All webhooks with their secrets: few, read together, and counted."""

    version = VersionAttribute()
    webhooks = JSONAttribute()


class SubscriptionsItem(UsageTable, discriminator="subscriptions"):
    """The snapshot of a customer: subscriptions, shards, alerts and overrides; its version is the revision."""

    version = VersionAttribute()
    subscriptions = JSONAttribute()
    shards = JSONAttribute(null=True)
    alerts = JSONAttribute(null=True)
    overrides = JSONAttribute(null=True)


class OwnerItem(UsageTable, discriminator="owner"):
    """Whose subscription an id is, and how far it is billed: every change of either is a new revision.

    The sparse index `due` holds those that billing must look at, by when.
    """

    customer = UnicodeAttribute()
    revision = NumberAttribute()
    entries = NumberAttribute()
    billed_until = UTCDateTimeAttribute(null=True)
    invoice = UnicodeAttribute(null=True)
    is_settled = BooleanAttribute()
    due_shard = UnicodeAttribute(null=True)
    due_at = UnicodeAttribute(null=True)


class EntryItem(UsageTable, discriminator="history"):
    """A change in the life of a subscription."""

    body = JSONAttribute()
    request = JSONAttribute(null=True)


class SentItem(UsageTable, discriminator="sent"):
    """Whether an event has been sent, or until when somebody is about to."""

    is_done = BooleanAttribute()
    lease_until = UTCDateTimeAttribute()
    ttl = NumberAttribute()


class DynamoCatalog(DynamoKeys):
    """The `Catalog` and `KeyStore` of the deployment. Plan versions, being immutable, are read once."""

    def __init__(self) -> None:
        self._versions: dict[tuple[str, int], Plan] = {}

    def feature(self, code: str) -> Feature | None:
        """The feature, if there is one."""
        item = _get(FeatureItem, "FEATURE", code)
        return _feature(item) if item else None

    def save_feature(self, feature: Feature) -> bool:
        """Write a feature, unless one with another type, aggregation or dedupe is there."""
        item = FeatureItem(
            "FEATURE",
            feature.code,
            name=feature.name,
            type=feature.type.value,
            unit=feature.unit,
            aggregation=feature.aggregation.value,
            dedupe=feature.dedupe.value,
        )
        same = (
            (FeatureItem.type == item.type)
            & (FeatureItem.aggregation == item.aggregation)
            & (FeatureItem.dedupe == item.dedupe)
        )
        return _put(item, FeatureItem.pk.does_not_exist() | same)

    def features(self, codes: Iterable[str]) -> dict[str, Feature]:
        """Those of the features that exist."""
        connect(CatalogTable)
        keys = [("FEATURE", code) for code in set(codes)]
        items = FeatureItem.batch_get(keys, consistent_read=True)
        return {item.sk: _feature(item) for item in items}

    def list_features(self, after: str | None, limit: int) -> tuple[list[Feature], str | None]:
        """Features by code, and the last code when there are more."""
        items, last = list_items(FeatureItem, "FEATURE", after, limit)
        return [_feature(item) for item in items], last

    def plan(self, code: str, version: int | None = None) -> Plan | None:
        """A version of a plan; None is the latest."""
        if version is None:
            latest = _get(PlanItem, _LATEST, code)
            return _plan(latest) if latest else None
        if (code, version) not in self._versions:
            item = _get(PlanItem, f"PLAN#{code}", _version_key(version))
            if item is None:
                return None
            self._versions[code, version] = _plan(item)
        return self._versions[code, version]

    def add_plan_version(self, plan: Plan) -> bool:
        """Write a version and make it the latest, if the version before it is the latest now."""
        connect(CatalogTable)
        body = plan_to_dict(plan)
        features = {granted.feature.code: feature_to_dict(granted.feature) for granted in plan.features}
        content: dict[str, Any] = {"version": plan.version, "body": body, "features": features}
        version = PlanItem(f"PLAN#{plan.code}", _version_key(plan.version), **content)
        latest = PlanItem(_LATEST, plan.code, **content)
        before = PlanItem.pk.does_not_exist() if plan.version == 1 else PlanItem.version == plan.version - 1
        return _transact([(version, PlanItem.pk.does_not_exist()), (latest, before)], CatalogTable)

    def list_plans(self, after: str | None, limit: int) -> tuple[list[Plan], str | None]:
        """The latest version of each plan by code, and the last code when there are more."""
        items, last = list_items(PlanItem, _LATEST, after, limit)
        return [_plan(item) for item in items], last

    def customers(self, customer_ids: Iterable[str]) -> dict[str, Customer]:
        """Those of the customers that exist."""
        connect(CatalogTable)
        keys = [("CUSTOMER", customer_id) for customer_id in set(customer_ids)]
        return {item.sk: Customer(**item.body) for item in CustomerItem.batch_get(keys, consistent_read=True)}

    def customer(self, customer_id: str) -> Customer | None:
        """The customer, if there is one."""
        item = _get(CustomerItem, "CUSTOMER", customer_id)
        return Customer(**item.body) if item else None

    def save_customer(self, customer: Customer) -> None:
        """Write a customer."""
        connect(CatalogTable)
        _customer_item(customer).save()

    def list_customers(self, after: str | None, limit: int) -> tuple[list[Customer], str | None]:
        """Customers by id, and the last id when there are more."""
        items, last = list_items(CustomerItem, "CUSTOMER", after, limit)
        return [Customer(**item.body) for item in items], last

    def subscriptions(self, customer_id: str) -> tuple[Subscription, ...]:
        """All subscriptions of a customer, as the last write left them; one read."""
        return self.snapshot(customer_id).subscriptions

    def snapshot(self, customer_id: str) -> Snapshot:
        """What is kept of a customer, as the last write left it; one read."""
        return _snapshot(_get(SubscriptionsItem, f"CUSTOMER#{customer_id}", "SUBSCRIPTIONS"))

    def snapshots_of(self, customer_ids: Iterable[str]) -> dict[str, Snapshot]:
        """What is kept of many customers, a request per hundred; those of whom nothing is are left out."""
        connect(UsageTable)
        wanted = set(customer_ids)
        if len(wanted) == 1:  # as usual, and it takes half the time
            found = {customer_id: self.snapshot(customer_id) for customer_id in wanted}
        else:
            keys = [(f"CUSTOMER#{customer_id}", "SUBSCRIPTIONS") for customer_id in wanted]
            items = SubscriptionsItem.batch_get(keys, consistent_read=True)
            found = {item.pk.removeprefix("CUSTOMER#"): _snapshot(item) for item in items}
        return {customer_id: snapshot for customer_id, snapshot in found.items() if snapshot != Snapshot()}

    def update_snapshot(self, customer_id: str, change: Callable[[Snapshot], Snapshot]) -> bool:
        """Write a snapshot as `change` makes it of the one there is, if that is as last read; whatever it raises."""
        pk = f"CUSTOMER#{customer_id}"
        item = _get(SubscriptionsItem, pk, "SUBSCRIPTIONS")
        before = _snapshot(item)
        after = change(before)
        if after == before:
            return True
        item = item or SubscriptionsItem(pk, "SUBSCRIPTIONS")
        _fill(item, after)
        return _put(item)

    def subscription(self, subscription_id: str) -> Subscription | None:
        """The subscription, if there is one."""
        owner = _get(OwnerItem, f"SUBSCRIPTION#{subscription_id}", "OWNER")
        if owner is None:
            return None
        return next((one for one in self.subscriptions(owner.customer) if one.id == subscription_id), None)

    def add_subscription(self, subscription: Subscription, who: Who = SUBSCRIBED) -> bool:
        """Write a new subscription, if its id is free and the customer's others are as last read."""
        pk = f"CUSTOMER#{subscription.customer}"
        snapshot = _get(SubscriptionsItem, pk, "SUBSCRIPTIONS")
        snapshot = snapshot or SubscriptionsItem(pk, "SUBSCRIPTIONS", subscriptions=[])
        snapshot.subscriptions = [*snapshot.subscriptions, subscription_to_dict(subscription)]
        owner, entry = _begun(subscription, who)
        return _transact([(owner, OwnerItem.pk.does_not_exist()), (snapshot, None), (entry, None)], UsageTable)

    def add_customers(self, newcomers: Sequence[tuple[Customer, Subscription]]) -> int:
        """Write customers with their first subscription, 25 items a request; how many were written.

        A customer that has a subscription is left as it is, so that a load that broke off can be run again.
        For loading many at once, while nobody else changes the same customers: nothing is checked meanwhile.
        """
        known = self.snapshots_of(customer.id for customer, _ in newcomers)
        kept = {customer.id: known.get(customer.id, Snapshot()) for customer, _ in newcomers}
        new = [one for one in newcomers if not kept[one[0].id].subscriptions]
        connect(CatalogTable)
        with CustomerItem.batch_write() as batch:
            for customer, _ in new:
                batch.save(_customer_item(customer))
        connect(UsageTable)
        with UsageTable.batch_write() as batch:
            for _, first in new:
                for item in _begun(first, SUBSCRIBED):
                    batch.save(item)
                snapshot = SubscriptionsItem(f"CUSTOMER#{first.customer}", "SUBSCRIPTIONS", version=1)
                _fill(snapshot, replace(kept[first.customer], subscriptions=(first,)))
                batch.save(snapshot)
        return len(new)

    def history_entry(self, subscription_id: str, number: int) -> tuple[str, Entry] | None:
        """The customer of a subscription, and an entry of its history."""
        owner = _get(OwnerItem, f"SUBSCRIPTION#{subscription_id}", "OWNER")
        item = _get(EntryItem, f"SUBSCRIPTION#{subscription_id}", f"HISTORY#{number:08d}") if owner else None
        return (owner.customer, entry_from_dict(item.body, item.request)) if owner and item else None

    def life(self, subscription_id: str) -> Life | None:
        """A subscription with its history and standing, if there is one.

        Another writer may change it while it is read. A write of what was read then finds another revision.
        """
        connect(UsageTable)
        for _ in range(_READS):
            items = list(UsageTable.query(f"SUBSCRIPTION#{subscription_id}", consistent_read=True))
            owner = next((item for item in items if isinstance(item, OwnerItem)), None)
            if owner is None:
                return None
            entries = [item for item in items if isinstance(item, EntryItem)]
            mine = (one for one in self.subscriptions(owner.customer) if one.id == subscription_id)
            subscription = next(mine, None)
            if subscription is not None and len(entries) == owner.entries:
                history = tuple(entry_from_dict(item.body, item.request) for item in entries)
                return Life(subscription, _standing(owner), history)
        raise Unavailable("The subscription is being changed now; send the request again.")

    def change_life(self, before: Life, after: Subscription, entry: Entry) -> bool:
        """Write a change of a subscription with its entry, if nothing of it has changed since it was read."""
        item = _get(SubscriptionsItem, f"CUSTOMER#{after.customer}", "SUBSCRIPTIONS")
        snapshot = _snapshot(item)
        if item is None or before.subscription not in snapshot.subscriptions:
            return False
        changed = tuple(after if one.id == after.id else one for one in snapshot.subscriptions)
        _fill(item, replace(snapshot, subscriptions=changed))
        standing = replace(before.standing, entries=entry.number, revision=before.standing.revision + 1)
        life = Life(after, standing, (*before.history, entry))
        told = _entry_item(after.id, entry), EntryItem.pk.does_not_exist()
        return write_all([standing_write(life), (item, None), told])

    def due(self, by: datetime) -> Iterator[tuple[str, datetime]]:
        """The subscriptions that billing must look at, and since when, the longest due first; may lag behind."""
        shards = (_due(str(shard), by) for shard in range(DUE_SHARDS))
        for item in merge(*shards, key=lambda item: item["due_at"]["S"]):
            yield item["pk"]["S"].removeprefix("SUBSCRIPTION#"), datetime.fromisoformat(item["due_at"]["S"])

    def webhooks(self) -> tuple[Webhook, ...]:
        """All webhooks, as the last write left them; one read."""
        return _webhooks(_get(WebhooksItem, "WEBHOOK", "ALL"))

    def update_webhooks(self, change: Callable[[tuple[Webhook, ...]], tuple[Webhook, ...]]) -> bool:
        """Write the webhooks as `change` makes them of those there are, if these are as last read."""
        item = _get(WebhooksItem, "WEBHOOK", "ALL")
        before = _webhooks(item)
        after = change(before)
        if after == before:
            return True
        item = item or WebhooksItem("WEBHOOK", "ALL")
        item.webhooks = [_webhook_to_dict(one) for one in after]
        return _put(item)


class DynamoOnce:
    """Which events have been sent: a `Once`."""

    LEASE: Final = timedelta(minutes=1)
    """As long as the function that sends may run."""

    def claim(self, pk: str, sk: str, *, now: datetime, kept_until: datetime) -> Lease | None:
        """Lease the sending of an event for a minute; None when it has been sent.

        Raises:
            Unavailable: another's lease holds.
        """
        lease = Lease(pk, sk, now + self.LEASE, kept_until)
        free = SentItem.pk.does_not_exist() | ((SentItem.is_done == False) & (SentItem.lease_until < now))  # noqa: E712  DynamoDB's
        if _put(_sent(lease, is_done=False), free):
            return lease
        found = _get(SentItem, pk, sk)
        if found is not None and found.is_done:
            return None
        raise Unavailable("Another is sending this event now.")

    def done(self, lease: Lease) -> None:
        """Say that the event has been sent; nothing where the lease has passed to another."""
        _put(_sent(lease, is_done=True), SentItem.lease_until == lease.until)


@cache
def cursor_secret() -> bytes:
    """The secret that signs cursors, made by the first who needs it and read once by a warm function."""
    item = _get(SecretItem, "SECRET", "cursor")
    if item is None:
        made = SecretItem("SECRET", "cursor", secret=secrets.token_bytes(32))
        _put(made, SecretItem.pk.does_not_exist())
        item = _get(SecretItem, "SECRET", "cursor") or made
    return item.secret


def standing_write(life: Life) -> Write:
    """The write of a subscription's standing in its next revision, on condition of the one before it.

    It is part of a transaction with whatever must happen together with it (`tollgate.kernel.dynamodb.write_all`).
    """
    return _owner(life), OwnerItem.revision == life.standing.revision - 1


def _begun(subscription: Subscription, who: Who) -> tuple[OwnerItem, EntryItem]:
    first = created(subscription, who)
    life = Life(subscription, Standing(subscription.customer, entries=1), (first,))
    return _owner(life), _entry_item(subscription.id, first)


def _owner(life: Life) -> OwnerItem:
    standing, due = life.standing, due_at(life)
    name = life.subscription.id
    return OwnerItem(
        f"SUBSCRIPTION#{name}",
        "OWNER",
        customer=standing.customer,
        revision=standing.revision,
        entries=standing.entries,
        billed_until=standing.billed_until,
        invoice=standing.invoice,
        is_settled=standing.is_settled,
        due_shard=str(zlib.crc32(name.encode()) % DUE_SHARDS) if due else None,
        due_at=_sortable(due) if due else None,
    )


def _standing(item: OwnerItem) -> Standing:
    billed_until = item.billed_until.astimezone(UTC) if item.billed_until else None
    return Standing(
        item.customer, int(item.revision), int(item.entries), billed_until, item.invoice, bool(item.is_settled)
    )


def _entry_item(subscription_id: str, entry: Entry) -> EntryItem:
    request = list(entry.request) if entry.request else None
    sk = f"HISTORY#{entry.number:08d}"
    return EntryItem(f"SUBSCRIPTION#{subscription_id}", sk, body=entry_to_dict(entry), request=request)


def _due(shard: str, by: datetime) -> Iterator[dict[str, Any]]:
    """What is due in a shard of the index, through the table's one client; PynamoDB's own way wants another."""
    request: dict[str, Any] = {
        "TableName": UsageTable.Meta.table_name,
        "IndexName": "due",
        "KeyConditionExpression": "due_shard = :shard AND due_at <= :by",
        "ExpressionAttributeValues": {":shard": {"S": shard}, ":by": {"S": _sortable(by)}},
    }
    for page in connect(UsageTable).client.get_paginator("query").paginate(**request):
        yield from page["Items"]


def _sortable(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def _table(model: type[Model]) -> type[Model]:
    return CatalogTable if issubclass(model, CatalogTable) else UsageTable


def _get(model: type[_Item], pk: str, sk: str) -> _Item | None:
    connect(_table(model))
    try:
        return model.get(pk, sk, consistent_read=True)
    except model.DoesNotExist:
        return None
    except GetError as error:
        raise Unavailable("The database cannot be read now; send the request again.") from error


def _put(item: Model, condition: Condition | None = None) -> bool:
    connect(_table(type(item)))
    try:
        item.save(condition=condition)
    except PutError as error:
        if is_lost_race(error):
            return False
        raise
    return True


def _transact(puts: list[tuple[Model, Condition | None]], table: type[Model]) -> bool:
    try:
        with TransactWrite(connection=connect(table)) as transaction:
            for item, condition in puts:
                transaction.save(item, condition=condition)
    except TransactWriteError as error:
        if is_lost_race(error):
            return False
        raise
    return True


def _customer_item(customer: Customer) -> CustomerItem:
    return CustomerItem("CUSTOMER", customer.id, body=asdict(customer))


def _version_key(version: int) -> str:
    return f"{version:010d}"


def _feature(item: FeatureItem) -> Feature:
    return feature_from_dict(
        {
            "code": item.sk,
            "name": item.name,
            "type": item.type,
            "unit": item.unit,
            "aggregation": item.aggregation,
            "dedupe": item.dedupe,
        }
    )


def _plan(item: PlanItem) -> Plan:
    return plan_from_dict(item.body, {code: feature_from_dict(body) for code, body in item.features.items()})


def _snapshot(item: SubscriptionsItem | None) -> Snapshot:
    if item is None:
        return Snapshot()
    shards, alerts, overrides = item.shards or {}, item.alerts or {}, item.overrides or {}
    return Snapshot(
        tuple(subscription_from_dict(body) for body in item.subscriptions),
        {feature: tuple(sharding_from_dict(body) for body in bodies) for feature, bodies in shards.items()},
        {feature: tuple(threshold_from_dict(body) for body in bodies) for feature, bodies in alerts.items()},
        {feature: override_from_dict(body) for feature, body in overrides.items()},
        int(item.version),
    )


def _fill(item: SubscriptionsItem, snapshot: Snapshot) -> None:
    item.subscriptions = [subscription_to_dict(one) for one in snapshot.subscriptions]
    shards = {feature: [sharding_to_dict(one) for one in entries] for feature, entries in snapshot.shards.items()}
    alerts = {feature: [threshold_to_dict(one) for one in entries] for feature, entries in snapshot.alerts.items()}
    overrides = {feature: override_to_dict(override) for feature, override in snapshot.overrides.items()}
    item.shards, item.alerts, item.overrides = shards or None, alerts or None, overrides or None


def _sent(lease: Lease, *, is_done: bool) -> SentItem:
    ttl = int(lease.kept_until.timestamp())
    return SentItem(lease.pk, lease.sk, is_done=is_done, lease_until=lease.until, ttl=ttl)


def _webhooks(item: WebhooksItem | None) -> tuple[Webhook, ...]:
    return tuple(_webhook_from_dict(body) for body in item.webhooks) if item else ()


def _webhook_to_dict(webhook: Webhook) -> dict[str, Any]:
    disabled_at = format_time(webhook.disabled_at) if webhook.disabled_at else None
    times = {"created_at": format_time(webhook.created_at), "disabled_at": disabled_at}
    return asdict(webhook) | times | {"retired": [[secret, format_time(until)] for secret, until in webhook.retired]}


def _webhook_from_dict(body: dict[str, Any]) -> Webhook:
    disabled_at = parse_time(body["disabled_at"]) if body["disabled_at"] else None
    times = {"created_at": parse_time(body["created_at"]), "disabled_at": disabled_at}
    retired = tuple((secret, parse_time(until)) for secret, until in body.get("retired", ()))
    return Webhook(**body | times | {"events": tuple(body["events"]), "retired": retired})
