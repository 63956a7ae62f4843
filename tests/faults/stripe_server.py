"""localstripe as a server of its own process, and what speaks to it as the library speaks to Stripe.

It differs from Stripe's present API in three things, which `LocalTransport` makes good: it knows the parameter
`allowed_payment_method_types` by its name of before, lists payment intents with no filter, and knows no idempotency
keys, so that whatever is sent twice is done twice.
"""

import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit
from urllib.request import Request, urlopen

import stripe

__all__ = ["LocalStripe", "LocalTransport", "running"]

SECRET = "sk_test_tollgate"
_SERVER = """
import sys
from aiohttp import web
from localstripe import resources, server
resources.Store.dump_to_disk = lambda _: None  # it would write into /tmp
web.run_app(server.app, host="127.0.0.1", port=int(sys.argv[1]))
"""
"""Its own command listens to the whole network."""


class LocalTransport(stripe.RequestsClient):
    """Speaks to localstripe; `before` and `after` are told of each call and may lose it or its answer."""

    def __init__(self) -> None:
        super().__init__(timeout=10)
        self.calls: list[tuple[str, str, Mapping[str, str]]] = []
        self.before: Callable[[str, str], None] = lambda *_: None
        self.after: Callable[[str, str], None] = lambda *_: None

    def request(  # type: ignore[override]  # as that of RequestsClient, which has bytes for the text of its base
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """One call."""
        parts = urlsplit(url)
        path = parts.path
        self.calls.append((method, path, headers or {}))
        self.before(method, path)
        query = parse_qs(parts.query)
        if method == "get" and path == "/v1/payment_intents":
            query = {name: values for name, values in query.items() if name in {"limit", "starting_after"}}
        if isinstance(post_data, str):
            post_data = re.sub(r"\ballowed_payment_method_types\b", "payment_method_types", post_data)
        answer = super().request(
            method, urlunsplit(parts._replace(query=urlencode(query, doseq=True))), headers, post_data
        )
        self.after(method, path)
        return answer


class LocalStripe:
    """The server, and what a seller would set up there."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.transport = LocalTransport()
        self.client = stripe.StripeClient(SECRET, base_addresses={"api": url}, http_client=stripe.RequestsClient())

    def clear(self) -> None:
        """Forget everything."""
        with urlopen(Request(f"{self.url}/_config/data", method="DELETE")):  # noqa: S310  our own server
            self.transport = LocalTransport()

    def customer(self, card: str | None) -> str:
        """A customer whose default payment method is a card of that number."""
        made = self.client.v1.customers.create(params={"email": "ada@example.com"})
        if card is not None:
            self.replace_card(made.id, card)
        return made.id

    def replace_card(self, customer: str, card: str) -> str:
        """Make another card the customer's default."""
        number: Any = {"number": card, "exp_month": 12, "exp_year": 2040, "cvc": "123"}
        method = self.client.v1.payment_methods.create(params={"type": "card", "card": number})
        self.client.v1.payment_methods.attach(method.id, params={"customer": customer})
        self.client.v1.customers.update(customer, params={"invoice_settings": {"default_payment_method": method.id}})
        return method.id

    def charged(self) -> list[int]:
        """The amounts of all payment intents that succeeded, in the smallest unit."""
        found = self.client.v1.payment_intents.list(params={"limit": 100}).data
        return sorted(intent.amount for intent in found if intent.status == "succeeded")

    def refunded(self) -> list[int]:
        """The amounts of all refunds."""
        return sorted(refund.amount for refund in self.client.v1.refunds.list(params={"limit": 100}).data)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(folder: Path) -> Iterator[LocalStripe]:
    """A server while the context lasts."""
    port = _free_port()
    command = [sys.executable, "-W", "ignore", "-c", _SERVER, str(port)]
    with (folder / "localstripe.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            _wait(port, process)
            yield LocalStripe(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()
            process.wait()


def _wait(port: int, process: "subprocess.Popen[bytes]") -> None:
    while process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"localstripe has ended with {process.returncode}")
