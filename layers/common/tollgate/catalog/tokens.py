"""Tokens of an OpenID Connect issuer, beside API keys: JWTs (RFC 7519) verified by the keys that the issuer publishes.

Only where a deployment names an issuer and a token looks like a JWT is this imported, for PyJWT and cryptography take
longer to import than all else of the authorizer.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import jwt
import urllib3
from aws_lambda_powertools.logging import Logger

from tollgate.catalog.keys import SCOPES
from tollgate.kernel.errors import BadRequest, Unavailable
from tollgate.kernel.ids import is_id
from tollgate.kernel.json import read_json
from tollgate.kernel.time import Clock

__all__ = ["ALGORITHMS", "KEEP", "LEEWAY", "MAX_STALE", "REFETCH", "Bearer", "Issuer", "fetch_json"]

ALGORITHMS: Final[Mapping[str, tuple[str, ...]]] = {
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "EC": ("ES256", "ES384", "ES512"),
    "OKP": ("EdDSA",),
}
"""By the type of a key: asymmetric ones alone, so that no public key is ever taken for a shared secret."""

KEEP: Final = timedelta(hours=1)
"""How long the issuer's keys are used before they are fetched again."""
REFETCH: Final = timedelta(seconds=60)
"""How often at most they are fetched for a key id that is not among them, which anyone can make up."""
MAX_STALE: Final = timedelta(hours=24)
"""How long they are used while the issuer cannot be reached."""
LEEWAY: Final = timedelta(seconds=30)
"""By how much the issuer's clock may differ."""

_PAUSE: Final = timedelta(seconds=5)
_MAX_TOKEN: Final = 8_192
_MAX_DOCUMENT: Final = 256 * 1024
_MAX_SUBJECT: Final = 100
_MIN_RSA_BITS: Final = 2_048
_OK: Final = 200
_TIMEOUT: Final = urllib3.Timeout(connect=1, read=2)
_LOOPBACK: Final = re.compile(r"http://(localhost|127\.0\.0\.1)(:\d+)?(/|\Z)")

logger = Logger(child=True)
Fetch = Callable[[str], dict[str, Any]]


class Bearer(NamedTuple):
    """Who sent a token: a stable id of the issuer's subject, and those of its scopes that are ours."""

    id: str
    scopes: tuple[str, ...]


class _Key(NamedTuple):
    key: Any
    algorithms: tuple[str, ...]


class Issuer:
    """Verifies the tokens of one issuer for one audience."""

    def __init__(self, issuer: str, audience: str, clock: Clock, fetch: Fetch | None = None) -> None:
        if not _is_safe(issuer):
            raise ValueError("an issuer has an https URL")
        self._issuer = issuer
        self._audience = audience
        self._clock = clock
        self._fetch = fetch or fetch_json
        self._keys: dict[str, _Key] = {}
        self._fetched_at: datetime | None = None
        self._blocked_until: datetime | None = None

    def bearer(self, token: str) -> Bearer | None:
        """Who sent a token; None if it is not one of the issuer's for us that holds now.

        Raises:
            Unavailable: the issuer's keys are needed and cannot be fetched.
        """
        if len(token) > _MAX_TOKEN:
            return None
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
            key = self._key(key_id) if isinstance(key_id, str) else None
            if key is None:
                return None
            claims = jwt.decode(
                token,
                key.key,
                algorithms=key.algorithms,
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.PyJWTError:
            return None
        return Bearer(_id_of(claims["sub"]), _scopes_of(claims))

    def _key(self, key_id: str) -> _Key | None:
        now = self._clock()
        key = self._keys.get(key_id)
        age = now - self._fetched_at if self._fetched_at else MAX_STALE
        if age < (KEEP if key else REFETCH):
            return key
        try:
            self._refresh(now)
        except Unavailable:
            if key is None or age >= MAX_STALE:
                raise
            return key
        return self._keys.get(key_id)

    def _refresh(self, now: datetime) -> None:
        if self._blocked_until is not None and now < self._blocked_until:
            raise Unavailable("The issuer of tokens could not be reached a moment ago.")
        try:
            self._keys = _keys_of(self._fetch(self._place_of_keys()))
        except Unavailable:
            logger.exception("the issuer's keys could not be fetched")
            self._blocked_until = now + _PAUSE
            raise
        self._fetched_at = now

    def _place_of_keys(self) -> str:
        found = self._fetch(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
        if found.get("issuer") != self._issuer:
            raise Unavailable("The issuer's configuration is of another issuer.")
        place = found.get("jwks_uri")
        if not isinstance(place, str) or not _is_safe(place) or _is_local(place) > _is_local(self._issuer):
            raise Unavailable("The issuer's configuration names no https URL of its keys.")
        return place


def fetch_json(url: str) -> dict[str, Any]:
    """A JSON object from a URL, in a few seconds and of a bounded size; redirects are not followed.

    Raises:
        Unavailable: there is none to be had.
    """
    try:
        answer = urllib3.request(
            "GET", url, timeout=_TIMEOUT, retries=False, redirect=False, preload_content=False, decode_content=False
        )
        try:
            content = answer.read(_MAX_DOCUMENT + 1)
        finally:
            answer.close()
        document = read_json(content.decode()) if answer.status == _OK and len(content) <= _MAX_DOCUMENT else None
    except (urllib3.exceptions.HTTPError, OSError, ValueError, BadRequest) as error:
        raise Unavailable("The issuer of tokens cannot be reached now.") from error
    if not isinstance(document, dict):
        raise Unavailable("The issuer of tokens does not answer as it should.")
    return document


def _keys_of(document: Mapping[str, Any]) -> dict[str, _Key]:
    listed = document.get("keys")
    if not isinstance(listed, list):  # else an error page in JSON would take away the keys that are known
        raise Unavailable("The issuer of tokens does not answer as it should.")
    found = [(one.get("kid"), _key_of(one)) for one in listed if isinstance(one, dict)]
    return {name: key for name, key in found if isinstance(name, str) and key is not None}


def _key_of(document: dict[str, Any]) -> _Key | None:
    """A key that signs, of a kind and size that we take."""
    algorithms = ALGORITHMS.get(str(document.get("kty")), ())
    if "alg" in document:
        algorithms = tuple(one for one in algorithms if one == document["alg"])
    if not algorithms or document.get("use", "sig") != "sig":
        return None
    try:
        key = jwt.PyJWK(document).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if document["kty"] == "RSA" and key.key_size < _MIN_RSA_BITS:
        return None
    return _Key(key, algorithms)


def _id_of(subject: str) -> str:
    if is_id(subject) and len(subject) <= _MAX_SUBJECT:
        return f"oidc:{subject}"
    return f"oidc.sha256:{hashlib.sha256(subject.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def _scopes_of(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """The claim `scope` (RFC 8693, names in a string), else `scp`, a list or a string; what is not ours is left out."""
    told = claims.get("scope", claims.get("scp", ()))
    named = told.split() if isinstance(told, str) else told if isinstance(told, list) else ()
    return tuple(scope for scope in SCOPES if scope in named)


def _is_safe(url: str) -> bool:
    return url.startswith("https://") or _is_local(url)


def _is_local(url: str) -> bool:
    """Whether a URL is of this machine, where plain http is as good; for tests alone."""
    return _LOOPBACK.match(url) is not None
