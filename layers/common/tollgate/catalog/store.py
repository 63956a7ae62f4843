"""The catalog in DynamoDB: the catalog table, and the subscription snapshots of the usage table.

pk                     sk                what
FEATURE                code              a feature
PLAN                   code              the latest version of a plan
PLAN#code              0000000042        one version, never changed
CUSTOMER               id                a customer
KEY                    id                an API key
SECRET                 cursor            signs cursors
CUSTOMER#id            SUBSCRIPTIONS     all subscriptions of a customer     (usage table)
SUBSCRIPTION#id        OWNER             whose it is                         (usage table)
"""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC
from functools import cache
from typing import Any, Final, TypeVar, cast

from pynamodb.attributes import (
    BinaryAttribute,
    JSONAttribute,
    ListAttribute,
    NumberAttribute,
    UnicodeAttribute,
    UTCDateTimeAttribute,
    VersionAttribute,
)
from pynamodb.exceptions import DeleteError, GetError, PutError, TransactWriteError
from pynamodb.expressions.condition import Condition
from pynamodb.models import Model
from pynamodb.transactions import TransactWrite

from tollgate.catalog.keys import ApiKey
from tollgate.catalog.model import (
    Customer,
    Feature,
    Plan,
    Subscription,
    feature_from_dict,
    feature_to_dict,
    plan_from_dict,
    plan_to_dict,
    subscription_from_dict,
    subscription_to_dict,
)
from tollgate.kernel.dynamodb import CatalogTable, UsageTable, connect, is_lost_race
from tollgate.kernel.errors import Unavailable

__all__ = ["DynamoCatalog", "cursor_secret"]

_LATEST: Final = "PLAN"
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


class KeyItem(CatalogTable, discriminator="key"):
    """An API key; the secret itself is nowhere."""

    name = UnicodeAttribute()
    scopes: ListAttribute[str] = ListAttribute()
    secret_hash = UnicodeAttribute()
    created_at = UTCDateTimeAttribute()


class SecretItem(CatalogTable, discriminator="secret"):
    """A secret of the deployment."""

    secret = BinaryAttribute(legacy_encoding=False)


class SubscriptionsItem(UsageTable, discriminator="subscriptions"):
    """The snapshot a check reads: all subscriptions of a customer."""

    version = VersionAttribute()
    subscriptions = JSONAttribute()


class OwnerItem(UsageTable, discriminator="owner"):
    """Whose subscription an id is."""

    customer = UnicodeAttribute()


class DynamoCatalog:
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
        items, last = _list(FeatureItem, "FEATURE", after, limit)
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
        items, last = _list(PlanItem, _LATEST, after, limit)
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
        items, last = _list(CustomerItem, "CUSTOMER", after, limit)
        return [Customer(**item.body) for item in items], last

    def subscriptions(self, customer_id: str) -> tuple[Subscription, ...]:
        """All subscriptions of a customer, as the last write left them; one read."""
        return _subscriptions(_get(SubscriptionsItem, f"CUSTOMER#{customer_id}", "SUBSCRIPTIONS"))

    def subscriptions_of(self, customer_ids: Iterable[str]) -> dict[str, tuple[Subscription, ...]]:
        """The same for many customers, a request per hundred; customers with none are left out."""
        connect(UsageTable)
        keys = [(f"CUSTOMER#{customer_id}", "SUBSCRIPTIONS") for customer_id in set(customer_ids)]
        items = SubscriptionsItem.batch_get(keys, consistent_read=True)
        return {item.pk.removeprefix("CUSTOMER#"): _subscriptions(item) for item in items}

    def subscription(self, subscription_id: str) -> Subscription | None:
        """The subscription, if there is one."""
        owner = _get(OwnerItem, f"SUBSCRIPTION#{subscription_id}", "OWNER")
        if owner is None:
            return None
        return next((one for one in self.subscriptions(owner.customer) if one.id == subscription_id), None)

    def add_subscription(self, subscription: Subscription) -> bool:
        """Write a new subscription, if its id is free and the customer's others are as last read."""
        pk = f"CUSTOMER#{subscription.customer}"
        snapshot = _get(SubscriptionsItem, pk, "SUBSCRIPTIONS")
        snapshot = snapshot or SubscriptionsItem(pk, "SUBSCRIPTIONS", subscriptions=[])
        snapshot.subscriptions = [*snapshot.subscriptions, subscription_to_dict(subscription)]
        owner = OwnerItem(f"SUBSCRIPTION#{subscription.id}", "OWNER", customer=subscription.customer)
        return _transact([(owner, OwnerItem.pk.does_not_exist()), (snapshot, None)], UsageTable)

    def add_customers(self, newcomers: Sequence[tuple[Customer, Subscription]]) -> int:
        """Write customers with their first subscription, 25 items a request; how many were written.

        A customer that has a subscription is left as it is, so that a load that broke off can be run again.
        For loading many at once, while nobody else changes the same customers: nothing is checked meanwhile.
        """
        known = self.subscriptions_of(customer.id for customer, _ in newcomers)
        new = [(customer, first) for customer, first in newcomers if customer.id not in known]
        connect(CatalogTable)
        with CustomerItem.batch_write() as batch:
            for customer, _ in new:
                batch.save(_customer_item(customer))
        connect(UsageTable)
        with UsageTable.batch_write() as batch:
            for _, first in new:
                batch.save(OwnerItem(f"SUBSCRIPTION#{first.id}", "OWNER", customer=first.customer))
                snapshot = SubscriptionsItem(f"CUSTOMER#{first.customer}", "SUBSCRIPTIONS", version=1)
                snapshot.subscriptions = [subscription_to_dict(first)]
                batch.save(snapshot)
        return len(new)

    def key(self, key_id: str) -> ApiKey | None:
        """The key, if there is one."""
        item = _get(KeyItem, "KEY", key_id)
        return _key(item) if item else None

    def add_key(self, key: ApiKey) -> bool:
        """Write a new key, if its id is free."""
        item = KeyItem(
            "KEY",
            key.id,
            name=key.name,
            scopes=list(key.scopes),
            secret_hash=key.secret_hash,
            created_at=key.created_at,
        )
        return _put(item, KeyItem.pk.does_not_exist())

    def delete_key(self, key_id: str) -> bool:
        """Delete a key; False when there is none."""
        connect(CatalogTable)
        try:
            KeyItem("KEY", key_id).delete(condition=KeyItem.pk.exists())
        except DeleteError as error:
            if is_lost_race(error):
                return False
            raise
        return True

    def list_keys(self, after: str | None, limit: int) -> tuple[list[ApiKey], str | None]:
        """Keys by id, and the last id when there are more."""
        items, last = _list(KeyItem, "KEY", after, limit)
        return [_key(item) for item in items], last


@cache
def cursor_secret() -> bytes:
    """The secret that signs cursors, made by the first who needs it and read once by a warm function."""
    item = _get(SecretItem, "SECRET", "cursor")
    if item is None:
        made = SecretItem("SECRET", "cursor", secret=secrets.token_bytes(32))
        _put(made, SecretItem.pk.does_not_exist())
        item = _get(SecretItem, "SECRET", "cursor") or made
    return item.secret


def _get(model: type[_Item], pk: str, sk: str) -> _Item | None:
    connect(CatalogTable if issubclass(model, CatalogTable) else UsageTable)
    try:
        return model.get(pk, sk, consistent_read=True)
    except model.DoesNotExist:
        return None
    except GetError as error:
        raise Unavailable("The database cannot be read now; send the request again.") from error


def _put(item: Model, condition: Condition) -> bool:
    connect(CatalogTable)
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


def _list(model: type[_Item], pk: str, after: str | None, limit: int) -> tuple[list[_Item], str | None]:
    connect(CatalogTable)
    start = {"pk": {"S": pk}, "sk": {"S": after}} if after else None
    page = model.query(pk, consistent_read=True, limit=limit + 1, last_evaluated_key=start)
    items = list(page)
    last = cast(CatalogTable, items[limit - 1]).sk if len(items) > limit else None
    return items[:limit], last


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


def _subscriptions(item: SubscriptionsItem | None) -> tuple[Subscription, ...]:
    return tuple(subscription_from_dict(body) for body in item.subscriptions) if item else ()


def _key(item: KeyItem) -> ApiKey:
    return ApiKey(item.sk, item.name, tuple(item.scopes), item.secret_hash, item.created_at.astimezone(UTC))
