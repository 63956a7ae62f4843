"""Webhooks of the deployment: where events are sent to, signed with a secret that is shown once."""

from collections.abc import Callable
from dataclasses import field, replace
from datetime import datetime, timedelta
from typing import Final, Literal, Protocol, get_args

from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import Conflict, FieldError, InvalidInput, NotFound
from tollgate.kernel.time import Clock
from tollgate.kernel.webhooks import check_url, new_secret

__all__ = [
    "EVENT_TYPES",
    "MAX_WEBHOOKS",
    "OVERLAP",
    "EventType",
    "Webhook",
    "Webhooks",
    "disable_webhook",
    "put_webhook",
    "remove_webhook",
    "rotate_secret",
    "webhook",
]

EventType = Literal[
    "usage.threshold_reached",
    "subscription.created",
    "subscription.trial_ended",
    "subscription.change_planned",
    "subscription.changed",
    "subscription.paused",
    "subscription.resumed",
    "subscription.cancel_planned",
    "subscription.cancel_withdrawn",
    "subscription.cancelled",
    "subscription.expired",
    "subscription.past_due",
    "subscription.recovered",
    "invoice.opened",
    "invoice.paid",
    "invoice.past_due",
    "invoice.voided",
    "invoice.uncollectible",
    "payment.succeeded",
    "payment.failed",
    "refund.succeeded",
    "refund.failed",
    "wallet.transaction",
]
"""What a webhook may be told."""

EVENT_TYPES: Final[tuple[str, ...]] = get_args(EventType)
MAX_WEBHOOKS: Final = 10
OVERLAP: Final = timedelta(hours=24)
"""How long a secret still signs after another has taken its place."""

_MAX_RETIRED: Final = 3

_TRIES: Final = 20


@dataclass(frozen=True, slots=True)
class Webhook:
    """An address and the types of events it is sent; `disabled_at` is when it said that it wants nothing more.

    `retired` are the secrets before the present one, each with the time until which it signs too.
    """

    id: str
    url: str = field(repr=False)  # may carry a token
    events: tuple[str, ...]
    secret: str = field(repr=False)
    created_at: datetime
    disabled_at: datetime | None = None
    retired: tuple[tuple[str, datetime], ...] = field(default=(), repr=False)

    def secrets(self, at: datetime) -> tuple[str, ...]:
        """What an event is signed with at an instant, the present one first."""
        return (self.secret, *(secret for secret, until in self.retired if at < until))


class Webhooks(Protocol):
    """What the use cases need of a store."""

    def webhooks(self) -> tuple[Webhook, ...]:
        """All of them, as the last write left them."""

    def update_webhooks(self, change: Callable[[tuple[Webhook, ...]], tuple[Webhook, ...]]) -> bool:
        """Write them as `change` makes them of those there are; False when another writer was first."""


def put_webhook(
    store: Webhooks, webhook_id: str, *, url: str, events: tuple[str, ...], clock: Clock, allow_private: bool
) -> tuple[Webhook, str | None]:
    """Make a webhook, or change and enable one; with its secret if it is new, which nobody can read again.

    Raises:
        InvalidInput: a URL that `check_url` refuses, or an unknown type of event.
        Conflict: there are 10 already.
    """
    if not events or not set(events) <= set(EVENT_TYPES):
        raise InvalidInput([FieldError("/events", f"must name some of {', '.join(EVENT_TYPES)}")])
    try:
        check_url(url, allow_private=allow_private)
    except ValueError as error:
        raise InvalidInput([FieldError("/url", str(error))]) from None
    new = Webhook(webhook_id, url, tuple(dict.fromkeys(events)), new_secret(), clock())

    def change(webhooks: tuple[Webhook, ...]) -> tuple[Webhook, ...]:
        known = {one.id: one for one in webhooks}
        if webhook_id in known:
            changed = replace(known[webhook_id], url=new.url, events=new.events, disabled_at=None)
            return tuple((known | {webhook_id: changed}).values())
        if len(webhooks) >= MAX_WEBHOOKS:
            raise Conflict(f"There are {MAX_WEBHOOKS} webhooks, and no room for more.")
        return (*webhooks, new)

    made = next(one for one in _changed(store, change) if one.id == webhook_id)
    return made, new.secret if made.secret == new.secret else None


def rotate_secret(store: Webhooks, webhook_id: str, *, clock: Clock) -> Webhook:
    """Give a webhook another secret; what is sent is signed with the one before too, for a day.

    Raises:
        NotFound: there is no such webhook.
    """
    secret, now = new_secret(), clock()

    def change(webhooks: tuple[Webhook, ...]) -> tuple[Webhook, ...]:
        known = {one.id: one for one in webhooks}
        if webhook_id not in known:
            raise NotFound(f"There is no webhook {webhook_id}.")
        before = known[webhook_id]
        retired = [(before.secret, now + OVERLAP), *(one for one in before.retired if now < one[1])]
        after = replace(before, secret=secret, retired=tuple(retired[:_MAX_RETIRED]))
        return tuple((known | {webhook_id: after}).values())

    return next(one for one in _changed(store, change) if one.id == webhook_id)


def webhook(store: Webhooks, webhook_id: str) -> Webhook:
    """A webhook, or NotFound."""
    for one in store.webhooks():
        if one.id == webhook_id:
            return one
    raise NotFound(f"There is no webhook {webhook_id}.")


def remove_webhook(store: Webhooks, webhook_id: str) -> None:
    """Forget a webhook and its secret.

    Raises:
        NotFound: there is no such webhook.
    """

    def change(webhooks: tuple[Webhook, ...]) -> tuple[Webhook, ...]:
        left = tuple(one for one in webhooks if one.id != webhook_id)
        if len(left) == len(webhooks):
            raise NotFound(f"There is no webhook {webhook_id}.")
        return left

    _changed(store, change)


def disable_webhook(store: Webhooks, gone: Webhook, *, at: datetime) -> None:
    """Send a webhook nothing more, unless its URL has changed since or it is disabled already."""

    def change(webhooks: tuple[Webhook, ...]) -> tuple[Webhook, ...]:
        return tuple(replace(one, disabled_at=at) if one == gone else one for one in webhooks)

    _changed(store, change)


def _changed(store: Webhooks, change: Callable[[tuple[Webhook, ...]], tuple[Webhook, ...]]) -> tuple[Webhook, ...]:
    made: tuple[Webhook, ...] = ()

    def remember(before: tuple[Webhook, ...]) -> tuple[Webhook, ...]:
        nonlocal made
        made = change(before)
        return made

    for _ in range(_TRIES):
        if store.update_webhooks(remember):
            return made
    raise Conflict("Others are changing the webhooks now; send the request again.")
