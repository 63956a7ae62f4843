"""What no answer and no line of a log may hold: secrets, stack traces, the insides of AWS, what was sent."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Final

__all__ = ["CANARY", "in_answer", "in_log"]

CANARY: Final = "canary 4b1d"
"""Stands in names, notes, properties and bodies that are sent: no log may have it. A blank keeps it out of ids."""

_INSIDES: Final = re.compile(
    r"Traceback|File \\?\"|botocore|boto3|pynamodb|site-packages|/var/task|/opt/python|arn:aws|"
    r"ConditionalCheckFailed|ValidationException|ResourceNotFound|SerializationException|"
    r"AKIA[0-9A-Z]{16}|ASIA[0-9A-Z]{16}|aws_secret|SecretAccessKey"
)
_WEBHOOK_SECRET: Final = re.compile(r"whsec_(?!EXAMPLE)[A-Za-z0-9+/=]{16,}")
_KEY: Final = re.compile(r"tg_[0-9A-Za-z]{8,}_[0-9A-Za-z_]{32,}")
_SHOWN_ONCE: Final = {
    ("PUT", "/v1/webhooks/"): _WEBHOOK_SECRET,
    ("POST", "/v1/webhooks/"): _WEBHOOK_SECRET,
    ("POST", "/v1/api-keys"): _KEY,
}
"""Which secret an answer shows, to whoever has just made it."""


def in_answer(method: str, path: str, text: str, secrets: Iterable[str]) -> Iterator[str]:
    """What an answer shows that it should not; `secrets` are known, and shown by none."""
    yield from _anywhere(text, secrets)
    for pattern in (_WEBHOOK_SECRET, _KEY):
        shown = any(
            pattern is allowed and method == verb and path.startswith(prefix)
            for (verb, prefix), allowed in _SHOWN_ONCE.items()
        )
        if not shown:
            yield from pattern.findall(text)


def in_log(text: str, secrets: Iterable[str]) -> Iterator[str]:
    """What lines of a log hold that they should not, each with what stands before it."""
    yield from (*_anywhere(text, secrets), *_WEBHOOK_SECRET.findall(text), *_KEY.findall(text))
    if CANARY in text:
        place = text.index(CANARY)
        yield text[max(0, place - 300) : place + 100]


def _anywhere(text: str, secrets: Iterable[str]) -> Iterator[str]:
    for secret in secrets:
        if secret in text:
            yield "a known secret"
        if hashlib.sha256(secret.encode()).hexdigest() in text:
            yield "the hash of a known secret"
    if found := _INSIDES.search(text):
        yield text[max(0, found.start() - 300) : found.end() + 300]
