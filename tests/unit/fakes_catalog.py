"""A catalog in memory, held to the same contract as the one in DynamoDB."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from tollgate.catalog.keyring import Held
from tollgate.catalog.keys import ApiKey
from tollgate.catalog.life import SUBSCRIBED, Entry, Life, Standing, Who, created
from tollgate.catalog.model import Customer, Feature, Plan, Snapshot, Subscription
from tollgate.catalog.webhooks import Webhook

__all__ = ["MemoryCatalog"]

Thing = TypeVar("Thing")


class MemoryCatalog:
    """The `Catalog`, the `Directory` and the `KeyStore` as dictionaries."""

    def __init__(self) -> None:
        self._features: dict[str, Feature] = {}
        self._plans: dict[str, tuple[Plan, ...]] = {}
        self._customers: dict[str, Customer] = {}
        self._snapshots: dict[str, Snapshot] = {}
        self._lives: dict[str, tuple[Standing, tuple[Entry, ...]]] = {}
        self._keys: dict[str, ApiKey] = {}
        self._windows: dict[str, tuple[int, int]] = {}
        self._webhooks: tuple[Webhook, ...] = ()

    def feature(self, code: str) -> Feature | None:
        """The feature."""
        return self._features.get(code)

    def save_feature(self, feature: Feature) -> bool:
        """Write a feature, unless what never changes would."""
        before = self._features.get(feature.code, feature)
        if (before.type, before.aggregation, before.dedupe) != (feature.type, feature.aggregation, feature.dedupe):
            return False
        self._features[feature.code] = feature
        return True

    def features(self, codes: Iterable[str]) -> dict[str, Feature]:
        """Those that exist."""
        return {code: self._features[code] for code in codes if code in self._features}

    def list_features(self, after: str | None, limit: int) -> tuple[list[Feature], str | None]:
        """A page of features."""
        return _page(self._features, after, limit)

    def plan(self, code: str, version: int | None = None) -> Plan | None:
        """A version of a plan; None is the latest."""
        versions = self._plans.get(code, ())
        wanted = len(versions) if version is None else version
        return versions[wanted - 1] if 1 <= wanted <= len(versions) else None

    def add_plan_version(self, plan: Plan) -> bool:
        """Write a version, if it is the next."""
        versions = self._plans.get(plan.code, ())
        if plan.version != len(versions) + 1:
            return False
        self._plans[plan.code] = (*versions, plan)
        return True

    def list_plans(self, after: str | None, limit: int) -> tuple[list[Plan], str | None]:
        """A page of plans, each in its latest version."""
        return _page({code: versions[-1] for code, versions in self._plans.items()}, after, limit)

    def customer(self, customer_id: str) -> Customer | None:
        """The customer."""
        return self._customers.get(customer_id)

    def customers(self, customer_ids: Iterable[str]) -> dict[str, Customer]:
        """Those that exist."""
        return {one: self._customers[one] for one in customer_ids if one in self._customers}

    def save_customer(self, customer: Customer) -> None:
        """Write a customer."""
        self._customers[customer.id] = customer

    def list_customers(self, after: str | None, limit: int) -> tuple[list[Customer], str | None]:
        """A page of customers."""
        return _page(self._customers, after, limit)

    def subscriptions(self, customer_id: str) -> tuple[Subscription, ...]:
        """All subscriptions of a customer."""
        return self.snapshot(customer_id).subscriptions

    def snapshot(self, customer_id: str) -> Snapshot:
        """What is kept of a customer."""
        return self._snapshots.get(customer_id, Snapshot())

    def update_snapshot(self, customer_id: str, change: Callable[[Snapshot], Snapshot]) -> bool:
        """Write a snapshot as `change` makes it of the one there is; whatever it raises."""
        before = self.snapshot(customer_id)
        self._snapshots[customer_id] = replace(change(before), revision=before.revision + 1)
        return True

    def snapshots_of(self, customer_ids: Iterable[str]) -> dict[str, Snapshot]:
        """What is kept of many customers; those of whom nothing is are left out."""
        return {one: found for one in customer_ids if (found := self.snapshot(one)) != Snapshot()}

    def subscription(self, subscription_id: str) -> Subscription | None:
        """The subscription."""
        every = (one for snapshot in self._snapshots.values() for one in snapshot.subscriptions)
        return next((one for one in every if one.id == subscription_id), None)

    def add_subscription(self, subscription: Subscription, who: Who = SUBSCRIBED) -> bool:
        """Write a new subscription, if its id is free."""
        if self.subscription(subscription.id):
            return False
        before = self.snapshot(subscription.customer)
        self._snapshots[subscription.customer] = replace(
            before, subscriptions=(*before.subscriptions, subscription), revision=before.revision + 1
        )
        self._lives[subscription.id] = (Standing(subscription.customer, entries=1), (created(subscription, who),))
        return True

    def life(self, subscription_id: str) -> Life | None:
        """The subscription with its history and standing."""
        found = self.subscription(subscription_id)
        return Life(found, *self._lives[subscription_id]) if found else None

    def change_life(self, before: Life, after: Subscription, entry: Entry) -> bool:
        """Write a change with its entry, if nothing has changed since."""
        if self.life(after.id) != before:
            return False
        snapshot = self.snapshot(after.customer)
        changed = tuple(after if one.id == after.id else one for one in snapshot.subscriptions)
        self._snapshots[after.customer] = replace(snapshot, subscriptions=changed, revision=snapshot.revision + 1)
        standing = replace(before.standing, entries=entry.number, revision=before.standing.revision + 1)
        self._lives[after.id] = (standing, (*before.history, entry))
        return True

    def add_customers(self, newcomers: Sequence[tuple[Customer, Subscription]]) -> int:
        """Write customers that have no subscription with their first; how many were written."""
        new = [(customer, first) for customer, first in newcomers if not self.subscriptions(customer.id)]
        for customer, first in new:
            self._lives[first.id] = (Standing(customer.id, entries=1), (created(first, SUBSCRIBED),))
            self._customers[customer.id] = customer
            self._snapshots[customer.id] = replace(self.snapshot(customer.id), subscriptions=(first,), revision=1)
        return len(new)

    def key(self, key_id: str) -> ApiKey | None:
        """The key."""
        return self._keys.get(key_id)

    def held(self, key_id: str) -> Held | None:
        """The hashes of a key's secrets, and the key."""
        key = self.key(key_id)
        return Held(key.secret_hash, key.previous_hash, lambda: key) if key else None

    def add_key(self, key: ApiKey) -> bool:
        """Write a new key, if its id is free."""
        if key.rate_limit and key.id not in self._keys:
            self._windows[key.id] = (-1, 0)
        return self._keys.setdefault(key.id, key) is key

    def rotate_key(self, before: ApiKey, after: ApiKey) -> bool:
        """Write the secrets of a key, if its secret is still the one before."""
        kept = self._keys.get(after.id)
        if kept is None or kept.secret_hash != before.secret_hash:
            return False
        self._keys[after.id] = replace(after, last_used_at=kept.last_used_at)
        return True

    def delete_key(self, key_id: str) -> bool:
        """Delete a key; False when there is none."""
        self._windows.pop(key_id, None)
        return self._keys.pop(key_id, None) is not None

    def mark_used(self, key_id: str, *, at: datetime, unless_after: datetime) -> None:
        """Write when a key was used, unless it says so already."""
        key = self._keys.get(key_id)
        if key and (key.last_used_at is None or key.last_used_at <= unless_after):
            self._keys[key_id] = replace(key, last_used_at=at)

    def open_window(self, key_id: str, window: int) -> bool:
        """Begin a window with one request."""
        if key_id not in self._windows or self._windows[key_id][0] >= window:
            return False
        self._windows[key_id] = (window, 1)
        return True

    def count_in_window(self, key_id: str, window: int, limit: int) -> bool:
        """Count a request."""
        begun, used = self._windows.get(key_id, (-1, 0))
        if begun < window or used >= limit:
            return False
        self._windows[key_id] = (begun, used + 1)
        return True

    def list_keys(self, after: str | None, limit: int) -> tuple[list[ApiKey], str | None]:
        """A page of keys."""
        return _page(self._keys, after, limit)

    def webhooks(self) -> tuple[Webhook, ...]:
        """All webhooks."""
        return self._webhooks

    def update_webhooks(self, change: Callable[[tuple[Webhook, ...]], tuple[Webhook, ...]]) -> bool:
        """Write the webhooks as `change` makes them of those there are."""
        self._webhooks = change(self._webhooks)
        return True


def _page(things: Mapping[str, Thing], after: str | None, limit: int) -> tuple[list[Thing], str | None]:
    names = sorted(name for name in things if after is None or name > after)
    return [things[name] for name in names[:limit]], names[limit - 1] if len(names) > limit else None
