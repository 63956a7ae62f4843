"""The catalog's bodies on the wire, in and out."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from tollgate.catalog.keys import (
    DEFAULT_OVERLAP_SECONDS,
    MAX_KEY_WINDOW_SECONDS,
    MAX_OVERLAP_SECONDS,
    MAX_RATE,
    ApiKey,
    KeyLimit,
    Scope,
)
from tollgate.catalog.life import Action, When
from tollgate.catalog.model import (
    MAX_WINDOW_SECONDS,
    AfterGrace,
    Aggregation,
    BillingPeriod,
    Customer,
    Dedupe,
    Feature,
    FeatureType,
    Overage,
    Override,
    Plan,
    PlanFeature,
    Quota,
    Rate,
    RateAlgorithm,
    Sharding,
    Subscription,
    SubscriptionStatus,
    Threshold,
    override_to_dict,
    plan_faults,
    sharding_to_dict,
    threshold_to_dict,
)
from tollgate.catalog.periods import Interval
from tollgate.catalog.snapshots import MAX_SHARDS, MAX_THRESHOLDS
from tollgate.catalog.webhooks import EventType, Webhook
from tollgate.kernel.errors import FieldError
from tollgate.kernel.money import ZERO
from tollgate.kernel.schema import MAX_REASON, Code, CurrencyCode, DecimalString, Timestamp, UnsignedDecimal
from tollgate.kernel.time import format_time
from tollgate.kernel.webhooks import MAX_URL
from tollgate.pricing.schema import PriceBody, to_price

__all__ = [
    "AlertsBody",
    "AlertsView",
    "ApiKeyBody",
    "ApiKeyCreated",
    "ApiKeyList",
    "ApiKeyView",
    "CounterBody",
    "CounterView",
    "CustomerBody",
    "CustomerList",
    "CustomerView",
    "FeatureBody",
    "FeatureList",
    "FeatureView",
    "OverrideBody",
    "OverrideView",
    "PlanBody",
    "PlanList",
    "PlanView",
    "SubscriptionBody",
    "SubscriptionList",
    "SubscriptionView",
    "WebhookBody",
    "WebhookCreated",
    "WebhookList",
    "WebhookView",
    "alerts_view",
    "counter_view",
    "customer_view",
    "key_view",
    "override_view",
    "subscription_view",
    "to_plan",
    "webhook_view",
]

# docs/limits.md names them all. Lengths are in characters.
MAX_NAME: Final = 256
MAX_UNIT: Final = 64
MAX_EMAIL: Final = 254  # RFC 5321
MAX_TIMEZONE: Final = 64
MAX_METADATA: Final = 50
MAX_METADATA_KEY: Final = 64
MAX_METADATA_VALUE: Final = 512
MAX_PERIOD_COUNT: Final = 120
MAX_DAYS: Final = 3_650
MAX_FEATURES: Final = 200
MAX_EVENT_TYPES: Final = 50
MAX_SCOPES: Final = 20

Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME)]


class _Body(BaseModel):
    # What is always answered is `required` in the schema of an answer, though it need not be sent.
    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, json_schema_serialization_defaults_required=True
    )


class FeatureBody(_Body):
    """A feature to create or change."""

    name: Name
    type: FeatureType
    unit: Annotated[str, StringConstraints(min_length=1, max_length=MAX_UNIT)] | None = None
    aggregation: Aggregation = Aggregation.SUM
    dedupe: Dedupe = Dedupe.TIME

    def to_feature(self, code: str) -> Feature:
        """The feature of that code."""
        return Feature(code, self.name, self.type, self.unit, self.aggregation, self.dedupe)


class FeatureView(FeatureBody):
    """A feature."""

    code: Code


class FeatureList(BaseModel):
    """A page of features."""

    items: list[FeatureView]
    next_cursor: str | None


class BillingPeriodBody(_Body):
    """How long a billing period is."""

    interval: Interval
    count: int = Field(default=1, ge=1, le=MAX_PERIOD_COUNT, strict=True)


class QuotaBody(_Body):
    """A limit per billing period."""

    limit: UnsignedDecimal
    overage: Overage = Overage.BLOCK


class RateBody(_Body):
    """A limit per time window."""

    limit: UnsignedDecimal
    window_seconds: int = Field(ge=1, le=MAX_WINDOW_SECONDS, strict=True)
    algorithm: RateAlgorithm = RateAlgorithm.FIXED


class PlanFeatureBody(_Body):
    """What a plan grants of a feature, and at what price."""

    feature: Code
    enabled: bool = Field(default=True, strict=True)
    price: PriceBody | None = None
    quota: QuotaBody | None = None
    rate: RateBody | None = None

    def to_plan_feature(self, feature: Feature) -> PlanFeature:
        """The terms for that feature."""
        return PlanFeature(
            feature=feature,
            enabled=self.enabled,
            price=to_price(self.price) if self.price else None,
            quota=Quota(self.quota.limit, self.quota.overage) if self.quota else None,
            rate=Rate(self.rate.limit, self.rate.window_seconds, self.rate.algorithm) if self.rate else None,
        )


class PlanBody(_Body):
    """A plan to create, or to make a new version of."""

    name: Name
    currency: CurrencyCode
    billing_period: BillingPeriodBody
    base_price: UnsignedDecimal = ZERO
    trial_days: int = Field(default=0, ge=0, le=MAX_DAYS, strict=True)
    grace_days: int = Field(default=0, ge=0, le=MAX_DAYS, strict=True)
    """For how long a subscription whose invoice could not be collected still grants what the plan does."""
    after_grace: AfterGrace = AfterGrace.CANCEL
    features: list[PlanFeatureBody] = Field(default=[], max_length=MAX_FEATURES)


class PlanView(PlanBody):
    """One immutable version of a plan."""

    code: Code
    version: int


class PlanList(BaseModel):
    """A page of plans, each in its latest version."""

    items: list[PlanView]
    next_cursor: str | None


def to_plan(code: str, body: PlanBody, features: dict[str, Feature]) -> tuple[Plan, tuple[FieldError, ...]]:
    """The plan a body asks for, its version not yet known, and what is wrong where it names unknown features."""
    faults, granted, places = [], [], []
    for index, terms in enumerate(body.features):
        feature = features.get(terms.feature)
        if feature is None:
            faults.append(FieldError(f"/features/{index}/feature", f"there is no feature {terms.feature}"))
        else:
            granted.append(terms.to_plan_feature(feature))
            places.append(index)
    plan = Plan(
        code=code,
        version=0,
        name=body.name,
        currency=body.currency,
        billing_period=BillingPeriod(body.billing_period.interval, body.billing_period.count),
        base_price=body.base_price,
        trial_days=body.trial_days,
        grace_days=body.grace_days,
        after_grace=body.after_grace,
        features=tuple(granted),
    )
    return plan, (*faults, *plan_faults(plan, places)) if faults else ()


class CustomerBody(_Body):
    """A customer to create or replace."""

    name: Name | None = None
    email: Annotated[str, StringConstraints(max_length=MAX_EMAIL, pattern=r"^[^@\s]+@[^@\s]+$")] | None = None
    timezone: Annotated[str, StringConstraints(min_length=1, max_length=MAX_TIMEZONE)] = "UTC"
    metadata: dict[
        Annotated[str, StringConstraints(min_length=1, max_length=MAX_METADATA_KEY)],
        Annotated[str, StringConstraints(max_length=MAX_METADATA_VALUE)],
    ] = Field(default={}, max_length=MAX_METADATA)

    def to_customer(self, customer_id: str) -> Customer:
        """The customer of that id."""
        return Customer(customer_id, self.name, self.email, self.timezone, self.metadata)


class CustomerView(CustomerBody):
    """A customer."""

    id: Code


class CustomerList(BaseModel):
    """A page of customers."""

    items: list[CustomerView]
    next_cursor: str | None


class SubscriptionBody(_Body):
    """A subscription to create."""

    id: Code | None = None
    customer: Code
    plan: Code
    starts_at: Timestamp | None = None
    trial_days: int | None = Field(default=None, ge=0, le=MAX_DAYS, strict=True)
    ends_at: Timestamp | None = None
    """Of a fixed term; it expires then."""


class ReasonBody(_Body):
    """Why a subscription is changed; for the history."""

    reason: Annotated[str, StringConstraints(max_length=MAX_REASON)] = ""


class ChangeBody(ReasonBody):
    """Another plan for a subscription."""

    plan: Code
    when: When


class CancelBody(ReasonBody):
    """The end of a subscription."""

    when: When


class PlanReference(BaseModel):
    """A plan version."""

    code: Code
    version: int


class PeriodView(BaseModel):
    """A half-open period: the start is in it, the end is not."""

    start: Timestamp
    end: Timestamp


class PlannedChangeView(BaseModel):
    """A plan version that takes the place of the present one."""

    at: Timestamp
    plan: PlanReference


class SubscriptionView(BaseModel):
    """A subscription as it stands now."""

    id: Code
    customer: Code
    plan: PlanReference
    status: SubscriptionStatus
    starts_at: Timestamp
    trial_ends_at: Timestamp | None
    timezone: str
    current_period: PeriodView
    ends_at: Timestamp | None
    """When it ends, or has ended."""
    planned_change: PlannedChangeView | None
    """What the end of the period brings."""
    grace_until: Timestamp | None
    """Of one that is past due, or paused because it was not paid."""
    created_at: Timestamp


class EntryView(BaseModel):
    """A change in the life of a subscription."""

    number: int
    at: Timestamp
    """From when on it holds."""
    recorded_at: Timestamp
    action: Action
    before: SubscriptionStatus | None = Field(alias="from")
    to: SubscriptionStatus
    actor: str
    """An API key, or "system"."""
    reason: str
    plan: PlanReference
    """What is in force from then on."""
    readings: dict[str, DecimalString]
    """Of a change of plan within a period: the usage until then, by feature."""


class EntryList(BaseModel):
    """The history of a subscription."""

    items: list[EntryView]
    next_cursor: str | None


class SubscriptionList(BaseModel):
    """A customer's subscriptions."""

    items: list[SubscriptionView]
    next_cursor: str | None


def subscription_view(subscription: Subscription, now: datetime) -> dict[str, Any]:
    """A subscription as the API shows it."""
    period = subscription.period(now)
    trial, end, planned = subscription.trial_ends_at, subscription.ends_at, subscription.planned
    return {
        "id": subscription.id,
        "customer": subscription.customer,
        "plan": {"code": subscription.plan, "version": subscription.plan_version},
        "status": subscription.status(now).value,
        "starts_at": format_time(subscription.starts_at),
        "trial_ends_at": format_time(trial) if trial else None,
        "timezone": subscription.timezone,
        "current_period": {"start": format_time(period.start), "end": format_time(period.end)},
        "ends_at": format_time(end) if end else None,
        "planned_change": {
            "at": format_time(planned.at),
            "plan": {"code": planned.plan, "version": planned.plan_version},
        }
        if planned
        else None,
        "grace_until": format_time(subscription.grace_until) if subscription.grace_until else None,
        "created_at": format_time(subscription.created_at),
    }


class CounterBody(_Body):
    """How a customer's counter of a feature is kept."""

    shards: int = Field(ge=1, le=MAX_SHARDS, strict=True)
    """In how many parts; one part is written some hundred times a second at most."""


class ShardingView(BaseModel):
    """The number of shards from an instant on."""

    since: Timestamp
    shards: int


class CounterView(BaseModel):
    """The schedule of a counter's shards, in the order of time; before its first entry there is one."""

    customer: Code
    feature: Code
    shards: list[ShardingView]


def counter_view(customer: str, feature: str, schedule: tuple[Sharding, ...]) -> dict[str, Any]:
    """A schedule as the API shows it."""
    return {"customer": customer, "feature": feature, "shards": [sharding_to_dict(entry) for entry in schedule]}


class OverrideBody(_Body):
    """What a customer gets in place of a plan's terms for a feature; what is left out stays as the plan has it."""

    enabled: bool | None = Field(default=None, strict=True)
    quota: QuotaBody | None = None
    rate: RateBody | None = None
    expires_at: Timestamp | None = None

    def to_override(self) -> Override:
        """The override."""
        return Override(
            self.enabled,
            Quota(self.quota.limit, self.quota.overage) if self.quota else None,
            Rate(self.rate.limit, self.rate.window_seconds, self.rate.algorithm) if self.rate else None,
            self.expires_at,
        )


class OverrideView(OverrideBody):
    """The override of a customer and feature."""

    customer: Code
    feature: Code


def override_view(customer: str, feature: str, override: Override) -> dict[str, Any]:
    """An override as the API shows it."""
    return {"customer": customer, "feature": feature, **override_to_dict(override)}


class ThresholdBody(_Body):
    """Usage worth an alert: a percentage of the quota, or a quantity; exactly one of them."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    percent: UnsignedDecimal | None = None
    quantity: UnsignedDecimal | None = None

    def to_threshold(self) -> Threshold:
        """The threshold."""
        return Threshold(self.percent, self.quantity)


class AlertsBody(_Body):
    """The usage of a feature that is worth an alert, once per period for each threshold."""

    thresholds: list[ThresholdBody] = Field(min_length=1, max_length=MAX_THRESHOLDS)


class AlertsView(AlertsBody):
    """The thresholds of a customer and feature."""

    customer: Code
    feature: Code


def alerts_view(customer: str, feature: str, thresholds: tuple[Threshold, ...]) -> dict[str, Any]:
    """Thresholds as the API shows them."""
    return {"customer": customer, "feature": feature, "thresholds": [threshold_to_dict(one) for one in thresholds]}


class KeyLimitBody(_Body):
    """At most so many requests of a key in each window, over all its callers."""

    limit: int = Field(ge=1, le=MAX_RATE, strict=True)
    window_seconds: int = Field(ge=1, le=MAX_KEY_WINDOW_SECONDS, strict=True)


class ApiKeyBody(_Body):
    """A key to make."""

    name: Name
    scopes: list[Scope] = Field(min_length=1, max_length=MAX_SCOPES)
    expires_at: Timestamp | None = None
    """When it ends by itself: in the future, and at most ten years ahead."""
    rate_limit: KeyLimitBody | None = None

    def limit(self) -> KeyLimit | None:
        """Its rate limit."""
        return KeyLimit(self.rate_limit.limit, self.rate_limit.window_seconds) if self.rate_limit else None


class ApiKeyView(ApiKeyBody):
    """A key without its secret."""

    id: Code
    prefix: str
    """How its secrets begin."""
    created_at: Timestamp
    last_used_at: Timestamp | None
    """To the hour; null while it has not been used."""
    old_secret_until: Timestamp | None
    """Until then the secret before the last rotation is good too."""


class ApiKeyCreated(ApiKeyView):
    """A key with a new secret, which is shown this once, and null when the request is repeated."""

    secret: str | None


class RotateKeyBody(_Body):
    """Another secret for a key."""

    overlap_seconds: int = Field(default=DEFAULT_OVERLAP_SECONDS, ge=0, le=MAX_OVERLAP_SECONDS, strict=True)
    """For how long the present secret stays good; 0 ends it at once."""


class ApiKeyList(BaseModel):
    """A page of keys."""

    items: list[ApiKeyView]
    next_cursor: str | None


def key_view(key: ApiKey, now: datetime) -> dict[str, Any]:
    """A key as the API shows it."""
    limit = key.rate_limit
    overlaps = key.previous_until is not None and now < key.previous_until
    return {
        "id": key.id,
        "prefix": key.prefix,
        "name": key.name,
        "scopes": list(key.scopes),
        "created_at": format_time(key.created_at),
        "expires_at": format_time(key.expires_at) if key.expires_at else None,
        "rate_limit": {"limit": limit.limit, "window_seconds": limit.window_seconds} if limit else None,
        "last_used_at": format_time(key.last_used_at) if key.last_used_at else None,
        "old_secret_until": format_time(key.previous_until) if key.previous_until and overlaps else None,
    }


class WebhookBody(_Body):
    """Where events are sent to, and which."""

    url: Annotated[str, StringConstraints(min_length=1, max_length=MAX_URL)]
    """Begins with https:// and names a host of the public internet."""

    events: list[EventType] = Field(min_length=1, max_length=MAX_EVENT_TYPES)


class WebhookView(WebhookBody):
    """A webhook without its secret."""

    id: Code
    created_at: Timestamp
    disabled_at: Timestamp | None
    """When it answered 410 Gone; it is sent nothing until it is put again."""
    old_secrets_until: Timestamp | None = None
    """Until then what it is sent is signed with the secrets before the present one too."""


class WebhookCreated(WebhookView):
    """A webhook; the secret that signs what it is sent is shown when it is new, and null when it is changed."""

    secret: str | None


class WebhookList(BaseModel):
    """All webhooks."""

    items: list[WebhookView]
    next_cursor: str | None


def webhook_view(webhook: Webhook) -> dict[str, Any]:
    """A webhook as the API shows it."""
    return {
        "id": webhook.id,
        "url": webhook.url,
        "events": list(webhook.events),
        "created_at": format_time(webhook.created_at),
        "disabled_at": format_time(webhook.disabled_at) if webhook.disabled_at else None,
        "old_secrets_until": format_time(max(until for _, until in webhook.retired)) if webhook.retired else None,
    }


def customer_view(customer: Customer) -> dict[str, Any]:
    """A customer as the API shows it."""
    return asdict(customer)
