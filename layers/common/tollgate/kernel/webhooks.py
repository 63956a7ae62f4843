"""Standard Webhooks: signed POST requests to the addresses of others (https://www.standardwebhooks.com, version 1).

An address that others choose must not lead into our own network: every address that a host's name stands for is
checked, and the connection is made to one that was, not to what the name stands for a moment later.
"""

import base64
import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import Final
from urllib.parse import SplitResult, urlsplit

__all__ = ["MAX_URL", "TIMEOUT_SECONDS", "DeliveryFailed", "Gone", "check_url", "new_secret", "send", "sign"]

TIMEOUT_SECONDS: Final = 5.0
"""From the connection to the status of the answer, whatever the receiver does."""

_PREFIX: Final = "whsec_"
_SECRET_BYTES: Final = 32  # the standard asks for 24 to 64
MAX_URL: Final = 2_048
_PRINTABLE: Final = re.compile(r"[!-\[\]-~]+")  # ASCII without blanks and the backslash, which browsers read as a slash
_PORTS: Final = {"https": 443, "http": 80}
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class DeliveryFailed(Exception):
    """The receiver could not be reached, or did not take it; the message does not name the address."""


class Gone(DeliveryFailed):
    """The receiver answered 410: it wants nothing more."""


def new_secret() -> str:
    """A fresh secret to sign with: "whsec_" and base64."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def sign(secret: str, message_id: str, at: datetime, body: bytes) -> str:
    """The value of the header webhook-signature; `at` counts to the second."""
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    content = f"{message_id}.{int(at.timestamp())}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()


def check_url(url: str, *, allow_private: bool) -> None:
    """Refuse an address that no webhook may be sent to.

    Args:
        url: of the receiver.
        allow_private: whether plain http and the addresses of a private network will do, as they do in a test.

    Raises:
        ValueError: it is not such a URL, its host is not known, or stands for an address that is not public.
    """
    parts = _split(url, allow_private=allow_private)
    try:
        _resolve(parts, allow_private=allow_private)
    except OSError:
        raise ValueError("its host is not known") from None


def _split(url: str, *, allow_private: bool) -> SplitResult:
    if len(url) > MAX_URL or not _PRINTABLE.fullmatch(url):
        raise ValueError(f"must be at most {MAX_URL} printable ASCII characters")
    parts = urlsplit(url)  # may itself raise ValueError, as does `port`
    if parts.scheme != "https" and not (allow_private and parts.scheme == "http"):
        raise ValueError("must begin with https://")
    if not parts.hostname or parts.port == 0:
        raise ValueError("must name a host")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("must have no user, no password and no fragment")
    return parts


def _port(parts: SplitResult) -> int:
    return parts.port or _PORTS[parts.scheme]


def _resolve(parts: SplitResult, *, allow_private: bool) -> list[str]:
    """The addresses of a host, all of which may be connected to."""
    try:
        found = socket.getaddrinfo(parts.hostname, _port(parts), type=socket.SOCK_STREAM)
    except UnicodeError:
        raise ValueError("must name a host") from None
    addresses = [str(entry[4][0]) for entry in found]
    if not allow_private and not all(_is_public(ipaddress.ip_address(address)) for address in addresses):
        raise ValueError("its host is not on the public internet")
    return addresses


def _is_public(address: _Address) -> bool:
    """Whether an address is one of the public internet, and so is the IPv4 address that it may carry."""
    if isinstance(address, ipaddress.IPv6Address):
        carried = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if address in _NAT64:
            carried.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if not all(_is_public(each) for each in carried if each is not None):
            return False
        if address.ipv4_mapped is not None or address in _NAT64:
            return True
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


class _Connection(HTTPConnection):
    """To one of the addresses that were checked, by the name that the certificate must have."""

    def __init__(self, parts: SplitResult, addresses: list[str], deadline: float) -> None:
        super().__init__(parts.hostname or "", _port(parts))
        self._is_secure = parts.scheme == "https"
        self._addresses = addresses
        self._deadline = deadline
        self.expired = threading.Event()
        self._timer = threading.Timer(deadline - time.monotonic(), self._expire)
        self.default_port = _PORTS[parts.scheme]  # which the header Host does not name

    def connect(self) -> None:
        error: OSError = OSError("no address")
        for address in self._addresses:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            try:
                self.sock = socket.create_connection((address, self.port), left)
            except OSError as failure:
                error = failure
                continue
            self._timer.daemon = True
            self._timer.start()
            if self._is_secure:
                self.sock = _tls().wrap_socket(self.sock, server_hostname=self.host)
            return
        raise error

    def _expire(self) -> None:
        # A time-out of the socket would begin anew with each byte that a slow receiver sends.
        self.expired.set()
        if self.sock:
            try:
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)  # SSLSocket's own is not for other threads
            except OSError:
                return

    def close(self) -> None:
        self._timer.cancel()
        super().close()


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def send(
    url: str,
    *,
    secret: str,
    message_id: str,
    at: datetime,
    body: bytes,
    allow_private: bool,
    retired: Sequence[str] = (),
) -> None:
    """POST a JSON body, signed; the receiver knows by `message_id` whether it has it already.

    It is signed with the secrets that are `retired` too, for receivers that have not changed theirs yet.

    Nothing of the answer is read but its head, and no redirect is followed.

    Raises:
        DeliveryFailed: it was not taken: the receiver cannot be reached, or its answer is not 2xx.
        Gone: it answered 410.
        TimeoutError: it may have been taken.
    """
    deadline = time.monotonic() + TIMEOUT_SECONDS
    try:
        parts = _split(url, allow_private=allow_private)
        addresses = _resolve(parts, allow_private=allow_private)
    except OSError:
        raise DeliveryFailed("the receiver's host is not known") from None
    except ValueError as error:
        raise DeliveryFailed(f"the receiver's URL {error}") from None
    headers = {
        "content-type": "application/json",
        "user-agent": "Tollgate",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(sign(one, message_id, at, body) for one in (secret, *retired)),
    }
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection = _Connection(parts, addresses, deadline)
    try:
        connection.request("POST", path, body, headers)
        status = connection.getresponse().status
        if connection.expired.is_set():  # a head that was cut off reads like a whole one
            raise TimeoutError
    except (OSError, HTTPException, ValueError) as error:  # ValueError: a host that no certificate can be for
        if connection.expired.is_set() or isinstance(error, TimeoutError):
            raise TimeoutError(f"the receiver did not answer within {TIMEOUT_SECONDS:g} seconds") from None
        raise DeliveryFailed(f"the receiver cannot be reached: {type(error).__name__}") from None
    finally:
        connection.close()
    if status == HTTPStatus.GONE:
        raise Gone("the receiver answered 410")
    if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        raise DeliveryFailed(f"the receiver answered {status}")
