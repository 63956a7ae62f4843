"""What a million events cost on AWS: prices, assumptions, arithmetic. Pure."""

from dataclasses import dataclass
from typing import Final

__all__ = ["ASSUMPTIONS", "PRICES", "Shape", "cost_of_a_million"]

PRICES: Final = {
    "HTTP API, a million requests": 1.00,
    "Lambda, a million requests": 0.20,
    "Lambda on arm64, a GB-second": 0.0000133334,
    "DynamoDB on demand, a million write units": 0.625,
    "DynamoDB on demand, a million read units": 0.125,
    "SQS, a million requests": 0.40,
}
"""USD in us-east-1, the first tier, without the free tier. A float is exact enough for a report."""

ROUND_SECONDS: Final = 0.005
ENVELOPE_SECONDS: Final = 0.002
AUTHORIZER_SECONDS: Final = 0.005
SLOWER: Final = 1769 / 1024
USAGE_GB: Final = 1.0
AUTHORIZER_GB: Final = 0.5
SQS_CHUNK_BYTES: Final = 64 * 1024
REQUESTS_PER_CHUNK: Final = 3

ASSUMPTIONS: Final = (
    "a sequential round of calls to DynamoDB or SQS takes 5 ms",
    "CPU as measured here, times 1,769/1,024: Lambda gives 1,024 MB that share of a core",
    "API Gateway's envelope and the Lambda runtime take 2 ms a request, a warm authorizer 5 ms at 512 MB",
    "a message costs 3 SQS requests (send, receive, delete) per 64 KB",
)


@dataclass(frozen=True, slots=True)
class Shape:
    """A request of so many events: its units, sequential rounds and CPU, and the sizes of its messages if queued."""

    events: int
    write_units: float
    read_units: float
    rounds: float
    cpu_seconds: float
    message_bytes: tuple[int, ...]

    @property
    def seconds(self) -> float:
        """How long the function runs."""
        return self.cpu_seconds * SLOWER + self.rounds * ROUND_SECONDS + ENVELOPE_SECONDS


def cost_of_a_million(shape: Shape, *, queued: bool = False) -> dict[str, float]:
    """USD by line for a million events; `queued` is with `Prefer: respond-async`."""
    per_request = {
        "HTTP API": PRICES["HTTP API, a million requests"] / 1e6,
        "Lambda, authorizer": _run(AUTHORIZER_SECONDS, AUTHORIZER_GB),
        "Lambda, usage": _run(shape.seconds, USAGE_GB),
        "DynamoDB, write units": shape.write_units * PRICES["DynamoDB on demand, a million write units"] / 1e6,
        "DynamoDB, read units": shape.read_units * PRICES["DynamoDB on demand, a million read units"] / 1e6,
        "SQS": 0.0,
    }
    if queued:
        # One invocation reads the events and queues them, another counts them.
        accept = shape.cpu_seconds * SLOWER + len(shape.message_bytes) * ROUND_SECONDS + ENVELOPE_SECONDS
        chunks = sum(-(-size // SQS_CHUNK_BYTES) for size in shape.message_bytes)
        per_request["Lambda, usage"] += _run(accept, USAGE_GB)
        per_request["SQS"] = chunks * REQUESTS_PER_CHUNK * PRICES["SQS, a million requests"] / 1e6
    return {line: usd * 1e6 / shape.events for line, usd in per_request.items()}


def _run(seconds: float, gigabytes: float) -> float:
    return PRICES["Lambda, a million requests"] / 1e6 + seconds * gigabytes * PRICES["Lambda on arm64, a GB-second"]
