"""Tokens of an OpenID Connect issuer: one of real keys that runs here, asked over HTTP by the authorizer."""

import base64
import contextlib
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from tests.store.test_authorizer import authorizer, recorded, said
from tests.unit.fakes_recovery import Clock
from tollgate.api.auth import caller_of
from tollgate.catalog.tokens import ALGORITHMS, KEEP, LEEWAY, MAX_STALE, REFETCH, Issuer
from tollgate.kernel.errors import Unauthenticated, Unavailable

AUDIENCE = "https://tollgate.example"
RSA = {name: rsa.generate_private_key(65537, bits) for name, bits in (("one", 2048), ("two", 2048), ("weak", 1024))}
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


class LocalIssuer:
    """Publishes its keys on loopback, and signs."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.documents: dict[str, Any] = {}
        self.is_down = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            """Answers with the documents."""

            def do_GET(self) -> None:
                """A document, or none."""
                outer.asked.append(self.path)
                found = outer.documents.get(self.path)
                self.send_response(503 if outer.is_down else 200 if found is not None else 404)
                self.end_headers()
                self.wfile.write(found if isinstance(found, bytes) else json.dumps(found).encode())

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/realms/a"
        self.configuration = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        self.documents["/realms/a/.well-known/openid-configuration"] = self.configuration
        self.publish(one=RSA["one"])

    def publish(self, **keys: Any) -> None:
        """Publish these keys, and no others."""
        listed = []
        for name, key in keys.items():
            algorithm: Any = {rsa.RSAPrivateKey: RSAAlgorithm, ec.EllipticCurvePrivateKey: ECAlgorithm}.get(
                next(one for one in (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey, object) if isinstance(key, one)),
                OKPAlgorithm,
            )
            listed.append({"kid": name, "use": "sig"} | algorithm.to_jwk(key.public_key(), as_dict=True))
        self.documents["/realms/a/keys"] = {"keys": listed}

    def token(self, key: Any = RSA["one"], kid: str | None = "one", algorithm: str = "RS256", **claims: Any) -> str:
        """A token; a claim that is None is left out."""
        now = int(time.time())
        told = {"iss": self.url, "aud": AUDIENCE, "sub": "user-7", "exp": now + 300, "iat": now}
        told |= {"scope": "openid usage:read catalog:read"} | claims
        content = {name: value for name, value in told.items() if value is not None}
        return jwt.encode(content, key, algorithm=algorithm, headers={"kid": kid} if kid else None)


@pytest.fixture
def local() -> Iterator[LocalIssuer]:
    """An issuer that is up while the test runs."""
    made = LocalIssuer()
    serving = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    serving.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    serving.join()


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def issuer(local: LocalIssuer, clock: Clock) -> Issuer:
    """What a warm authorizer knows of it."""
    return Issuer(local.url, AUDIENCE, clock)


def forged(header: dict[str, Any], claims: dict[str, Any], sign: Any) -> str:
    """A token put together by hand."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims)]
    signature = base64.urlsafe_b64encode(sign(b".".join(parts))).rstrip(b"=")
    return b".".join([*parts, signature]).decode()


def claims_of(token: str) -> dict[str, Any]:
    """What a token says."""
    told: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return told


# What is taken


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        *((RSA["one"], name) for name in ALGORITHMS["RSA"]),
        (EC, "ES256"),
        (ED, "EdDSA"),
    ],
    ids=[*ALGORITHMS["RSA"], "ES256", "EdDSA"],
)
def test_a_token_of_the_issuer_is_known(local: LocalIssuer, issuer: Issuer, key: Any, algorithm: str) -> None:
    """With its scopes that are ours, whatever others it has."""
    local.publish(key=key)
    found = issuer.bearer(local.token(key, "key", algorithm))
    assert found == ("oidc:user-7", ("usage:read", "catalog:read"))


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": "admin"}, ("admin",)),
        ({"scope": ""}, ()),
        ({"scope": None}, ()),
        ({"scope": "usage:read* usage usage:READ"}, ()),
        ({"scope": None, "scp": ["usage:read", "other", 7]}, ("usage:read",)),
        ({"scope": None, "scp": "events:write usage:read"}, ("events:write", "usage:read")),
        ({"scope": 7}, ()),
        ({"scope": {"usage:read": True}}, ()),
    ],
)
def test_scopes_come_from_the_claims_scope_and_scp(
    local: LocalIssuer, issuer: Issuer, claims: dict[str, Any], scopes: tuple[str, ...]
) -> None:
    """As far as they are ours; a token without any may ask nothing."""
    found = issuer.bearer(local.token(**claims))
    assert found is not None
    assert found.scopes == scopes


def test_a_callers_id_is_stable_and_bounded(local: LocalIssuer, issuer: Issuer) -> None:
    """It stands in histories: the subject itself where it can be an id, else its hash."""
    subjects = ["user-7", "auth0|5f7c8ec7c33c6c004bbafe82", "x" * 500, "\N{SNOWMAN}", "a b"]
    found = [issuer.bearer(local.token(sub=subject)) for subject in [*subjects, *subjects]]
    ids = [one.id for one in found if one]
    assert ids[:5] == ids[5:]
    assert len(set(ids)) == 5
    assert ids[0] == "oidc:user-7"
    assert all(len(one) <= 128 and one.isascii() for one in ids)


def test_an_audience_among_others_is_enough(local: LocalIssuer, issuer: Issuer) -> None:
    """A token may be for several."""
    assert issuer.bearer(local.token(aud=["https://other.example", AUDIENCE]))


def test_a_small_difference_of_clocks_is_forgiven(local: LocalIssuer, issuer: Issuer) -> None:
    """Half the leeway in both directions."""
    now, half = int(time.time()), int(LEEWAY.total_seconds() / 2)
    assert issuer.bearer(local.token(exp=now - half))
    assert issuer.bearer(local.token(nbf=now + half, iat=now + half))


# What is refused


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "https://other.example"},
        {"aud": None},
        {"aud": f"{AUDIENCE}/"},
        {"iss": "https://other.example"},
        {"iss": None},
        {"exp": 1_700_000_000},
        {"exp": None},
        {"exp": "tomorrow"},
        {"nbf": 4_000_000_000},
        {"iat": 4_000_000_000},
        {"sub": None},
        {"sub": 7},
    ],
)
def test_a_claim_that_is_wrong_or_lacking_is_refused(
    local: LocalIssuer, issuer: Issuer, claims: dict[str, Any]
) -> None:
    """Of another issuer or audience, over, not yet begun, or of nobody."""
    assert issuer.bearer(local.token()) is not None
    encoded = {name: value for name, value in (claims_of(local.token()) | claims).items() if value is not None}
    assert issuer.bearer(jwt.PyJWS().encode(json.dumps(encoded).encode(), RSA["one"], "RS256", {"kid": "one"})) is None


def test_a_token_of_no_algorithm_is_refused(local: LocalIssuer, issuer: Issuer) -> None:
    """In any spelling."""
    claims = claims_of(local.token())
    for name in ("none", "None", "NONE", ""):
        assert issuer.bearer(forged({"alg": name, "kid": "one", "typ": "JWT"}, claims, lambda _: b"")) is None


def test_a_public_key_is_no_shared_secret(local: LocalIssuer, issuer: Issuer) -> None:
    """HS256 with the published key, in each form that it has."""
    public = RSA["one"].public_key()
    published = json.dumps(local.documents["/realms/a/keys"]["keys"][0]).encode()
    forms = [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        published,
    ]
    claims = claims_of(local.token())
    for form in forms:
        header = {"alg": "HS256", "kid": "one", "typ": "JWT"}
        token = forged(header, claims, lambda text, form=form: hmac.digest(form, text, hashlib.sha256))
        assert issuer.bearer(token) is None
    shared = {"kid": "shared", "kty": "oct", "alg": "HS256", "k": base64.urlsafe_b64encode(b"x" * 32).decode()}
    local.documents["/realms/a/keys"]["keys"].append(shared)
    other = Issuer(local.url, AUDIENCE, Clock())
    assert other.bearer(jwt.encode(claims, b"x" * 32, "HS256", {"kid": "shared"})) is None
    assert other.bearer(local.token())


@pytest.mark.parametrize(
    ("key", "kid", "algorithm"),
    [
        (RSA["two"], "one", "RS256"),
        (RSA["one"], None, "RS256"),
        (EC, "one", "ES256"),
        (RSA["weak"], "weak", "RS256"),
    ],
    ids=["not published", "without a name", "of another kind", "too short"],
)
def test_another_key_is_refused(local: LocalIssuer, issuer: Issuer, key: Any, kid: str | None, algorithm: str) -> None:
    """One that is not published, one of no name, of another kind, and one that is too short to trust."""
    local.publish(one=RSA["one"], weak=RSA["weak"])
    with pytest.warns(jwt.InsecureKeyLengthWarning) if kid == "weak" else contextlib.nullcontext():
        token = local.token(key, kid, algorithm)
    assert issuer.bearer(token) is None
    assert issuer.bearer(local.token())


def test_a_key_signs_by_the_algorithm_it_is_published_for(local: LocalIssuer, issuer: Issuer) -> None:
    """And one that is for encryption not at all."""
    [published] = local.documents["/realms/a/keys"]["keys"]
    local.documents["/realms/a/keys"] = {
        "keys": [published | {"alg": "RS256"}, published | {"kid": "enc", "use": "enc"}, "x", {"kid": 7}, {"kid": "b"}]
    }
    assert issuer.bearer(local.token())
    assert issuer.bearer(local.token(algorithm="RS512")) is None
    assert issuer.bearer(local.token(kid="enc")) is None


@pytest.mark.parametrize("change", ["header", "claims", "signature", "cut", "long"])
def test_a_token_that_was_changed_is_refused(local: LocalIssuer, issuer: Issuer, change: str) -> None:
    """In any of its parts."""
    header, claims, signature = local.token().split(".")
    more = base64.urlsafe_b64encode(json.dumps(claims_of(local.token()) | {"scope": "admin"}).encode()).decode()
    changed = {
        "header": f"{header[:-1]}.{claims}.{signature}",
        "claims": f"{header}.{more.rstrip('=')}.{signature}",
        "signature": f"{header}.{claims}.{'A' * len(signature)}",
        "cut": f"{header}.{claims}.",
        "long": local.token(more="x" * 10_000),
    }
    assert issuer.bearer(changed[change]) is None


# The issuer's keys


def test_the_issuers_keys_are_fetched_once_an_hour(local: LocalIssuer, issuer: Issuer, clock: Clock) -> None:
    """Its configuration with them."""
    both = ["/realms/a/.well-known/openid-configuration", "/realms/a/keys"]
    for _ in range(3):
        assert issuer.bearer(local.token())
    assert local.asked == both
    clock.forward(KEEP)
    assert issuer.bearer(local.token())
    assert local.asked == both * 2


def test_a_new_key_is_known_at_once_and_an_old_one_no_longer_than_an_hour(
    local: LocalIssuer, issuer: Issuer, clock: Clock
) -> None:
    """A rollover: both are published for a while, then the new one alone."""
    assert issuer.bearer(local.token())
    clock.forward(REFETCH)
    local.publish(one=RSA["one"], two=RSA["two"])
    assert issuer.bearer(local.token(RSA["two"], "two"))
    assert issuer.bearer(local.token())
    local.publish(two=RSA["two"])
    clock.forward(KEEP)
    assert issuer.bearer(local.token(RSA["two"], "two"))
    assert issuer.bearer(local.token()) is None


def test_made_up_key_ids_have_the_keys_fetched_once_a_minute(local: LocalIssuer, issuer: Issuer, clock: Clock) -> None:
    """Whoever sends them cannot have us hammer the issuer."""
    for number in range(20):
        assert issuer.bearer(local.token(kid=f"made-up-{number}")) is None
    assert local.asked.count("/realms/a/keys") == 1
    clock.forward(REFETCH)
    for number in range(20):
        assert issuer.bearer(local.token(kid=f"made-up-{number}")) is None
    assert local.asked.count("/realms/a/keys") == 2


def test_an_issuer_that_cannot_be_reached_is_a_503_and_asked_again_after_a_pause(
    local: LocalIssuer, issuer: Issuer, clock: Clock
) -> None:
    """Not a 401: the token may be good."""
    local.is_down = True
    for _ in range(5):
        with pytest.raises(Unavailable):
            issuer.bearer(local.token())
    assert len(local.asked) == 1
    local.is_down = False
    clock.forward(timedelta(seconds=5))
    assert issuer.bearer(local.token())


def test_known_keys_are_used_for_a_day_while_the_issuer_is_down(
    local: LocalIssuer, issuer: Issuer, clock: Clock
) -> None:
    """Which new ones it has nobody knows meanwhile."""
    assert issuer.bearer(local.token())
    local.is_down = True
    clock.forward(MAX_STALE - timedelta(microseconds=1))
    assert issuer.bearer(local.token())
    with pytest.raises(Unavailable):
        issuer.bearer(local.token(RSA["two"], "two"))
    clock.forward(timedelta(seconds=5))
    with pytest.raises(Unavailable):
        issuer.bearer(local.token())


@pytest.mark.parametrize(
    ("path", "document"),
    [
        ("/realms/a/.well-known/openid-configuration", {"issuer": "https://other.example"}),
        ("/realms/a/.well-known/openid-configuration", {"jwks_uri": None}),
        ("/realms/a/.well-known/openid-configuration", []),
        ("/realms/a/.well-known/openid-configuration", b"<html>"),
        ("/realms/a/keys", b'{"keys": 5}'),
        ("/realms/a/keys", b'{"keys": {"kid": "one"}}'),
        ("/realms/a/keys", b'{"error": "try again later"}'),
        ("/realms/a/keys", b"\xff"),
        ("/realms/a/keys", b'"' + b"x" * 300_000 + b'"'),
    ],
    ids=["of another", "empty", "no object", "no JSON", "a number", "an object", "no keys", "no text", "endless"],
)
def test_what_an_issuer_should_not_answer_is_a_503(
    local: LocalIssuer, issuer: Issuer, path: str, document: Any
) -> None:
    """A configuration of another, no JSON, or no end of it."""
    local.documents[path] = local.configuration | document if isinstance(document, dict) else document
    with pytest.raises(Unavailable):
        issuer.bearer(local.token())


def test_an_answer_without_keys_takes_none_away(local: LocalIssuer, issuer: Issuer, clock: Clock) -> None:
    """What a proxy before the issuer says in its place does not shut out everybody."""
    assert issuer.bearer(local.token())
    local.documents["/realms/a/keys"] = {"error": "try again later"}
    clock.forward(KEEP)
    assert issuer.bearer(local.token())


@pytest.mark.parametrize(
    "url", ["http://issuer.example", "http://169.254.169.254/", "file:///etc/passwd", "http://localhost.example"]
)
def test_keys_are_fetched_by_https_alone(local: LocalIssuer, issuer: Issuer, url: str) -> None:
    """But for loopback, where tests run."""
    with pytest.raises(ValueError, match="https"):
        Issuer(url, AUDIENCE, Clock())
    local.configuration["jwks_uri"] = url
    with pytest.raises(Unavailable):
        issuer.bearer(local.token())
    configuration = {"issuer": "https://issuer.example", "jwks_uri": "http://localhost/keys"}
    with pytest.raises(Unavailable):
        Issuer("https://issuer.example", AUDIENCE, Clock(), lambda _: configuration).bearer(local.token())


# The function


@pytest.mark.usefixtures("tables")
def test_a_token_is_taken_beside_keys(local: LocalIssuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """And asks nothing of the database."""
    monkeypatch.setenv("OIDC_ISSUER", local.url)
    monkeypatch.setenv("OIDC_AUDIENCE", AUDIENCE)
    function, calls = authorizer(), recorded(monkeypatch)
    caller = caller_of(said(function, local.token()))
    assert (caller.key_id, caller.scopes) == ("oidc:user-7", frozenset({"usage:read", "catalog:read"}))
    with pytest.raises(Unauthenticated):
        caller_of(said(function, local.token(aud="other")))
    assert calls == []
    local.is_down = True
    with pytest.raises(Unavailable):
        caller_of(said(authorizer(), local.token()))


@pytest.mark.usefixtures("tables")
def test_without_an_issuer_a_token_is_nobodys(local: LocalIssuer) -> None:
    """And nobody is asked."""
    with pytest.raises(Unauthenticated):
        caller_of(said(authorizer(), local.token()))
    assert local.asked == []
