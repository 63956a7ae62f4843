"""What an error record keeps of its surroundings."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollgate.recovery.redaction import REDACTED, describe, plain, redact


@pytest.mark.parametrize(
    "key",
    [
        "Authorization", "api_key", "X-Api-Key", "apiKey", "client_secret", "token", "accessToken",
        "password", "card", "cardNumber", "card_cvc", "Set-Cookie", "private key",
    ],
)  # fmt: skip
def test_the_value_of_a_secret_key_is_replaced(key: str) -> None:
    """However it is spelled, and however deep it lies."""
    assert redact({"request": [{key: {"a": 1}}]}) == {"request": [{key: REDACTED}]}


@pytest.mark.parametrize("key", ["customer", "discarded", "idempotency_key", "amount"])
def test_what_is_no_secret_is_kept(key: str) -> None:
    """A person needs it to understand the failure."""
    assert redact({key: "value"}) == {key: "value"}


@pytest.mark.parametrize(
    "text",
    [
        "GET /v1/x?api_key=hunter2&a=1",
        'answer: {"password": "hunter2"}',
        "Authorization: Bearer hunter2",
        "sent Bearer hunter2 to the provider",
        "key sk_live_hunter2 is revoked",
        "4242 4242 4242 4242",
        "378282246310005",
    ],
)
def test_a_secret_within_a_text_is_replaced(text: str) -> None:
    """Messages of libraries quote requests, and those of payment providers cards."""
    kept = redact({"message": text})["message"]
    assert REDACTED in kept
    assert not {"hunter2", "4242", "10005"} & set(kept.replace('"', " ").split())
    assert "hunter2" not in describe(text)


def test_an_error_is_its_class_and_message() -> None:
    """A traceback is for the log."""
    assert describe(ValueError("no such invoice")) == "ValueError: no such invoice"
    assert describe(TimeoutError()) == "TimeoutError"
    assert describe(ValueError("half a pair: \ud800")) == "ValueError: half a pair: ?"


json_like = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=10),
    lambda children: st.lists(children) | st.dictionaries(st.text(max_size=5), children),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=5), json_like))
def test_any_context_becomes_bounded_json(context: dict[str, Any]) -> None:
    """Whatever a caller hands over, the record can be written."""
    assert len(json.dumps(redact(context), allow_nan=False)) < 20_000


def test_a_context_too_large_is_cut() -> None:
    """Its beginning is kept as text."""
    kept = redact({str(n): "x" * 1_000 for n in range(50)})
    assert list(kept) == ["truncated"]


def test_a_context_nested_too_deep_is_cut() -> None:
    """Seven levels are enough for a person."""
    context: dict[str, Any] = {}
    context["self"] = context
    assert "[nested deeper]" in json.dumps(redact(context))


def test_a_context_of_very_many_values_is_cut() -> None:
    """Writing a failure down takes a moment, whatever surrounds it."""
    wide: dict[str, Any] = {str(n): {str(m): ["x"] * 50 for m in range(50)} for n in range(50)}
    assert "[cut]" in json.dumps(redact(wide | {"0": {str(m): [1] * 50 for m in range(50)}}))


def test_arguments_keep_their_digits() -> None:
    """What JSON does not have becomes its text; nothing becomes a float."""
    at = datetime(2026, 1, 31, tzinfo=UTC)
    assert plain({"amount": Decimal("1.10"), "lines": (1, None), "at": at}) == {
        "amount": "1.10",
        "lines": [1, None],
        "at": "2026-01-31 00:00:00+00:00",
    }
