"""Stripe as a payment provider: payment intents that are confirmed off-session, refunds, signed webhooks.

The library is only imported when it is used: it lies in a layer of its own. It never tries again by itself, for what
is not known is asked for first. A payment intent or refund carries our key in its metadata; by that it is found in the
lists of its customer or payment intent, which Stripe keeps consistent.
"""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tollgate.billing.payments import Decline, DeclineKind, Payment, Refund
from tollgate.billing.providers import Outcome, Processing, Succeeded
from tollgate.kernel.dataclasses import dataclass
from tollgate.kernel.errors import BadRequest, Forbidden
from tollgate.kernel.money import exponent

if TYPE_CHECKING:
    import stripe

__all__ = ["STRIPE", "News", "StripeProvider", "minor_units", "read_news"]

STRIPE: Final = "stripe"
API: Final = "https://api.stripe.com"

_CONNECT_SECONDS: Final = 3
_READ_SECONDS: Final = 12  # three calls of a charge end before the claim on its payment does
_KEY: Final = "tollgate_key"
_PAYMENT: Final = "tollgate_payment"
_REFUND: Final = "tollgate_refund"
_SKEW: Final = timedelta(hours=1)
_PAGE: Final = 100
_Answer = TypeVar("_Answer")
_Made = TypeVar("_Made")

_EXPONENTS: Final = {"ISK": 2, "UGX": 2, "MGA": 0}
"""Where Stripe counts in other units than ISO 4217 (https://docs.stripe.com/currencies)."""

_HARD: Final = frozenset(
    {
        "authentication_required",
        "card_not_supported",
        "currency_not_supported",
        "expired_card",
        "highest_risk_level",
        "incorrect_address",
        "incorrect_cvc",
        "incorrect_number",
        "incorrect_zip",
        "invalid_account",
        "invalid_cvc",
        "invalid_expiry_month",
        "invalid_expiry_year",
        "invalid_number",
        "lost_card",
        "merchant_blacklist",
        "no_payment_method",
        "pickup_card",
        "restricted_card",
        "revocation_of_all_authorizations",
        "revocation_of_authorization",
        "security_violation",
        "stolen_card",
        "stop_payment_order",
        "testmode_decline",
        "transaction_not_allowed",
    }
)
"""Declines that no other try changes (https://docs.stripe.com/declines/codes); all others may be tried again."""

_FUNDS: Final = frozenset({"insufficient_funds", "card_velocity_exceeded", "withdrawal_count_limit_exceeded"})


class StripeProvider:
    """Charges customers of a Stripe account: a payment's `account` is `cus_...`, its `method` `pm_...`.

    Args:
        secret_key: of the account.
        api: where it is reached.
        http_client: makes what the library speaks HTTP through, in place of requests.
    """

    def __init__(
        self, secret_key: str, *, api: str = API, http_client: Callable[[], "stripe.HTTPClient"] | None = None
    ) -> None:
        self._secret_key = secret_key
        self._api = api
        self._http_client = http_client

    @cached_property
    def _client(self) -> "stripe.StripeClient":
        import stripe  # 0.3 seconds, and only there where the layer is

        http_client = self._http_client or (lambda: stripe.RequestsClient(timeout=(_CONNECT_SECONDS, _READ_SECONDS)))
        return stripe.StripeClient(
            self._secret_key,
            max_network_retries=0,
            http_client=http_client(),
            base_addresses={"api": self._api},
        )

    def charge(self, payment: Payment) -> Outcome:
        """Create and confirm a payment intent, once for the payment's key."""
        amount = minor_units(payment.amount, payment.currency)
        if amount is None:
            text = f"Stripe cannot charge {payment.amount} {payment.currency}: it has smaller units than Stripe's."
            return _decline("invalid_amount", text, hard=True)
        if payment.account is None:
            return _no_method(payment)
        account = payment.account

        def create() -> "stripe.PaymentIntent | Decline":
            method = self._method(account, payment.method)
            if method is None:
                return _no_method(payment)
            return self._client.v1.payment_intents.create(
                params={
                    "amount": amount,
                    "currency": payment.currency.lower(),
                    "customer": account,
                    "payment_method": method.id,
                    "allowed_payment_method_types": [method.type],
                    "off_session": True,
                    "confirm": True,
                    "metadata": {_KEY: payment.key, _PAYMENT: payment.id},
                },
                options={"idempotency_key": payment.key},
            )

        return _called(create, self._outcome)

    def _method(self, account: str, method: str | None) -> "stripe.PaymentMethod | None":
        """The payment method to charge: the one named, or the customer's default."""
        if method is None:
            customer = self._client.v1.customers.retrieve(account)
            settings = None if getattr(customer, "deleted", False) else customer.invoice_settings
            default = settings.default_payment_method if settings else None
            if default is None:
                return None
            method = default if isinstance(default, str) else default.id
        return self._client.v1.payment_methods.retrieve(method)

    def find_charge(self, payment: Payment) -> Outcome | None:
        """What became of the payment intent that carries the payment's key."""
        if payment.account is None:
            return None
        account, since = payment.account, int((payment.created_at - _SKEW).timestamp())

        def find() -> Outcome | None:
            found = self._client.v1.payment_intents.list(
                params={"customer": account, "created": {"gte": since}, "limit": _PAGE}
            )
            for intent in found.auto_paging_iter():
                if _metadata(intent).get(_KEY) == payment.key:
                    return self._outcome(intent)
            return None

        return _asked(find)

    def refund(self, payment: Payment, refund: Refund) -> Outcome:
        """Refund some of a payment intent, once for the refund's key."""
        amount, intent = minor_units(refund.amount, refund.currency), payment.reference
        if amount is None or intent is None:
            return Decline(
                DeclineKind.HARD, "not_refundable", f"The payment {payment.id} cannot be refunded by Stripe."
            )

        def create() -> "stripe.Refund":
            return self._client.v1.refunds.create(
                params={
                    "payment_intent": intent,
                    "amount": amount,
                    "metadata": {_KEY: refund.key, _REFUND: refund.id},
                },
                options={"idempotency_key": refund.key},
            )

        return _called(create, _refund_outcome)

    def find_refund(self, payment: Payment, refund: Refund) -> Outcome | None:
        """What became of the refund that carries the key."""
        intent = payment.reference
        if intent is None:
            return None

        def find() -> Outcome | None:
            found = self._client.v1.refunds.list(params={"payment_intent": intent, "limit": _PAGE})
            for one in found.auto_paging_iter():
                if _metadata(one).get(_KEY) == refund.key:
                    return _refund_outcome(one)
            return None

        return _asked(find)

    def _outcome(self, intent: "stripe.PaymentIntent") -> Outcome:
        if intent.status == "succeeded":
            return Succeeded(intent.id)
        if intent.status == "processing":
            return Processing(intent.id)
        if intent.status == "requires_action":
            # Nobody is there to act; an intent that is left so could be charged later, behind our back.
            self._client.v1.payment_intents.cancel(intent.id)
            return _decline("authentication_required", "The payment method asks for the customer's authentication.")
        if intent.status == "canceled" and not intent.last_payment_error:
            return _decline("canceled", f"The payment intent {intent.id} is cancelled.", hard=True)
        if intent.status in {"requires_payment_method", "canceled"}:
            return _declined(intent.last_payment_error)
        raise TimeoutError(f"the payment intent {intent.id} is {intent.status}")


def minor_units(amount: Decimal, currency: str) -> int | None:
    """An amount as Stripe counts it, in the currency's smallest unit; None where it is no whole number of them."""
    units = amount.scaleb(_EXPONENTS.get(currency, exponent(currency)))
    return int(units) if units == units.to_integral_value() else None


def _metadata(one: Any) -> dict[str, Any]:
    """What we have written of ourselves on an object of Stripe's."""
    metadata = getattr(one, "metadata", None)
    return dict(metadata.to_dict()) if metadata else {}


def _called(create: Callable[[], _Made | Decline], outcome: Callable[[_Made], Outcome]) -> Outcome:
    """Make what moves money, and tell how that ended; what was certainly not made is a decline."""
    import stripe  # as late as in the client

    def certain() -> _Made | Decline:
        try:
            return create()
        except stripe.CardError as error:
            return _declined(error.error)
        except stripe.RateLimitError as error:
            return Decline(DeclineKind.TRANSIENT, "rate_limited", error.user_message or "Too many requests.")
        except stripe.InvalidRequestError as error:
            return _decline(error.code or "invalid_request", error.user_message or "Stripe refused it.", hard=True)

    def call() -> Outcome:
        made = certain()
        return made if isinstance(made, Decline) else outcome(made)

    return _asked(call)


def _asked(question: Callable[[], _Answer]) -> _Answer:
    """Call Stripe; whatever leaves the outcome open is a TimeoutError.

    That is the connection, a 5xx, a key that is in use now or was with other parameters, and whatever keeps Stripe
    from saying what it knows.
    """
    import stripe  # as late as in the client

    try:
        return question()
    except (stripe.AuthenticationError, stripe.PermissionError) as error:
        raise ConnectionError(f"Stripe refuses the secret key: {error.user_message}") from error
    except stripe.StripeError as error:
        raise TimeoutError(f"Stripe has not said what became of it: {type(error).__name__}") from error


def _declined(error: "stripe.ErrorObject | stripe.PaymentIntent.LastPaymentError | None") -> Decline:
    """What Stripe says of a payment method that it could not charge."""
    code = getattr(error, "decline_code", None) or getattr(error, "code", None) or "declined"
    message = getattr(error, "message", None) or "The payment was declined."
    advised = getattr(error, "advice_code", None) == "do_not_try_again"
    return _decline(str(code), str(message), hard=advised)


def _decline(code: str, message: str, *, hard: bool = False) -> Decline:
    if code in _FUNDS and not hard:
        return Decline(DeclineKind.FUNDS, code, message)
    return Decline(DeclineKind.HARD if hard or code in _HARD else DeclineKind.TRANSIENT, code, message)


def _no_method(payment: Payment) -> Decline:
    return _decline("no_payment_method", f"Stripe has nothing to charge {payment.customer} by; put its payment method.")


def _refund_outcome(refund: "stripe.Refund") -> Outcome:
    if refund.status in {"failed", "canceled"}:
        reason = getattr(refund, "failure_reason", None)
        return Decline(DeclineKind.HARD, str(reason or refund.status), f"The refund {refund.id} has {refund.status}.")
    return Succeeded(refund.id) if refund.status == "succeeded" else Processing(refund.id)


@dataclass(frozen=True, slots=True)
class News:
    """An event of Stripe's: of which payment or refund of ours it tells, if of any."""

    id: str
    type: str
    payment: str | None
    refund: str | None


def read_news(body: str, signature: str | None, secret: str) -> News:
    """Read an event that Stripe has sent, if it is signed with the endpoint's secret and no more than 5 minutes old.

    Raises:
        Forbidden: it is not.
        BadRequest: it is signed, and no event all the same.
    """
    import stripe  # as late as in the client

    try:
        stripe.WebhookSignature.verify_header(body, signature, secret, stripe.Webhook.DEFAULT_TOLERANCE)
    except (stripe.SignatureVerificationError, TypeError):  # TypeError: a signature that is not ASCII
        raise Forbidden("The signature is not one of Stripe's for this endpoint, or too old.") from None
    try:
        event = stripe.Webhook.construct_event_without_verification(body)
        metadata = _metadata(event.data.object)
        return News(str(event.id), str(event.type), metadata.get(_PAYMENT), metadata.get(_REFUND))
    except (ValueError, AttributeError, KeyError):
        raise BadRequest("The body is not an event of Stripe's.") from None
