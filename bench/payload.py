"""What a sender posts: batches of CloudEvents, some 300 bytes an event. The same seed gives the same bytes."""

import json
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

__all__ = ["FEATURE", "HEADERS", "Sender"]

FEATURE: Final = "api-calls"
HEADERS: Final = {"content-type": "application/cloudevents-batch+json"}
_ROUTES: Final = ("/v1/orders", "/v1/orders/{id}", "/v1/customers", "/v1/search", "/v1/reports/{id}/rows")
_REGIONS: Final = ("eu-central-1", "eu-west-1", "us-east-1")
_UUID7_VERSION: Final = 7 << 76
_UUID7_VARIANT: Final = 2 << 62


class Sender:
    """Makes requests of events that come one after another, so many a second; `clock` is the time of the next event."""

    def __init__(self, clock: datetime, seed: int = 1) -> None:
        self.clock = clock
        self._random = random.Random(seed)  # noqa: S311  repeatable, guards nothing

    def request(self, customers: Sequence[str], events: int, a_second: float) -> tuple[str, datetime]:
        """The body of a request with the next events of the customers in turn, and when it is received."""
        sent = []
        for number in range(events):
            at = self.clock
            sent.append(self._event(customers[number % len(customers)], at))
            self.clock += timedelta(seconds=1 / a_second)
        return json.dumps(sent, separators=(",", ":")), at + timedelta(milliseconds=80)

    def _event(self, customer: str, at: datetime) -> dict[str, object]:
        choose = self._random.choice
        return {
            "specversion": "1.0",
            "id": self._uuid7(at),
            "source": "/gateway/eu-central-1a",
            "type": FEATURE,
            "subject": customer,
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "datacontenttype": "application/json",
            "data": {
                "quantity": str(self._random.randint(1, 400)),
                "route": choose(_ROUTES),
                "region": choose(_REGIONS),
            },
        }

    def _uuid7(self, at: datetime) -> str:
        """RFC 9562: 48 bits of milliseconds since 1970, the rest random."""
        milliseconds = int(at.timestamp() * 1000)
        low = self._random.getrandbits(62)
        value = milliseconds << 80 | _UUID7_VERSION | self._random.getrandbits(12) << 64 | _UUID7_VARIANT | low
        text = f"{value:032x}"
        return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
