"""Webhooks: the signature of the standard, addresses that lead nowhere private, and receivers of all kinds."""

import base64
import re
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.conftest import ROOT
from tests.unit.fakes_catalog import MemoryCatalog
from tests.unit.fakes_recovery import NOW, Clock
from tests.unit.fakes_webhooks import receiver
from tollgate.catalog.webhooks import (
    MAX_WEBHOOKS,
    OVERLAP,
    disable_webhook,
    put_webhook,
    remove_webhook,
    rotate_secret,
    webhook,
)
from tollgate.kernel import webhooks
from tollgate.kernel.errors import Conflict, InvalidInput, NotFound
from tollgate.kernel.webhooks import DeliveryFailed, Gone, check_url, new_secret, send, sign

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE = "msg_p5jXN8AQM9LWM0D4loKWxJek"
AT = datetime.fromtimestamp(1_614_265_330, UTC)
BODY = b'{"test": 2432232314}'
TLS_HANDSHAKE = b"\x16"
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

Answer = Callable[[socket.socket], None]


# Signatures


@pytest.mark.parametrize(
    ("secret", "at"),
    [
        (SECRET, AT),
        (SECRET.removeprefix("whsec_"), AT),
        (SECRET, AT.astimezone(timezone(timedelta(hours=5, minutes=30)))),
        (SECRET, AT + timedelta(microseconds=999_999)),
    ],
)
def test_the_vector_of_the_standard_is_signed_as_it_says(secret: str, at: datetime) -> None:
    """In whatever zone the time is told, and to the second."""
    assert sign(secret, MESSAGE, at, BODY) == SIGNATURE


def test_all_that_is_signed_changes_the_signature() -> None:
    """The secret, the id, the time and the body."""
    changed = [
        sign(new_secret(), MESSAGE, AT, BODY),
        sign(SECRET, MESSAGE + "x", AT, BODY),
        sign(SECRET, MESSAGE, AT + timedelta(seconds=1), BODY),
        sign(SECRET, MESSAGE, AT, BODY + b" "),
    ]
    assert len({SIGNATURE, *changed}) == 5


def test_what_the_docs_verify_with_takes_our_signature_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The function as docs/alerts.md has it."""
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/alerts.md").read_text(), re.DOTALL)
    documented: dict[str, Any] = {}
    exec(code, documented)  # noqa: S102  our own docs
    headers = {"webhook-id": MESSAGE, "webhook-timestamp": "1614265330", "webhook-signature": SIGNATURE}
    monkeypatch.setattr("time.time", lambda: AT.timestamp() + 299)
    assert documented["is_ours"](SECRET, headers, BODY)
    assert not documented["is_ours"](SECRET, headers, BODY + b" ")
    assert not documented["is_ours"](new_secret(), headers, BODY)
    monkeypatch.setattr("time.time", lambda: AT.timestamp() + 300)
    assert not documented["is_ours"](SECRET, headers, BODY)


def test_a_secret_is_random_and_as_long_as_the_standard_asks() -> None:
    """24 to 64 bytes in base64, with its prefix."""
    secrets = {new_secret() for _ in range(10)}
    assert len(secrets) == 10
    assert all(24 <= len(base64.b64decode(one.removeprefix("whsec_"), validate=True)) <= 64 for one in secrets)
    assert all(one.startswith("whsec_") for one in secrets)


# Addresses


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",  # noqa: S104
        "224.0.0.1", "255.255.255.255", "240.0.0.1", "[::1]", "[::]", "[fe80::1]", "[fd00:ec2::254]", "[ff02::1]",
        "[::ffff:127.0.0.1]", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "[2002:7f00:1::]", "[::127.0.0.1]",
        "2130706433", "0x7f.1", "127.1", "localhost",
    ],
)  # fmt: skip
def test_an_address_that_is_not_public_is_refused_however_it_is_written(host: str) -> None:
    """The metadata of the machine, the loopback, what is private, and IPv4 within IPv6."""
    with pytest.raises(ValueError, match="public"):
        check_url(f"https://{host}/hook", allow_private=False)
    check_url(f"https://{host}/hook", allow_private=True)


@pytest.mark.parametrize("host", ["8.8.8.8", "[2606:4700:4700::1111]", "[::ffff:8.8.8.8]", "8.8.8.8:8443"])
def test_a_public_address_will_do(host: str) -> None:
    """On any port."""
    check_url(f"https://{host}/hook?token=1", allow_private=False)


def test_each_address_that_a_name_stands_for_must_be_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """One private among them is enough to refuse it."""
    resolve(monkeypatch, "8.8.8.8")
    check_url("https://receiver.example/", allow_private=False)
    resolve(monkeypatch, "8.8.8.8", "10.0.0.1")
    with pytest.raises(ValueError, match="public"):
        check_url("https://receiver.example/", allow_private=False)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://8.8.8.8/", "https"),
        ("ftp://8.8.8.8/", "https"),
        ("8.8.8.8/hook", "https"),
        ("https://", "host"),
        ("https:///hook", "host"),
        ("https://..", "host"),
        ("https://8.8.8.8:0/", "host"),
        ("https://8.8.8.8:99999/", "range"),
        ("https://[::1/", "IPv6"),
        ("https://user@8.8.8.8/", "no user"),
        ("https://:password@8.8.8.8/", "no user"),
        ("https://8.8.8.8/#part", "no user"),
        ("https://8.8.8.8\\@127.0.0.1/", "printable"),
        ("https://8.8.8.8/ HTTP/1.1\r\nx: y", "printable"),
        ("https://b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example/", "printable"),
        ("https://8.8.8.8/" + "x" * 2048, "printable"),
    ],
)
def test_a_url_that_is_none_of_ours_is_refused(url: str, said: str) -> None:
    """It says why."""
    with pytest.raises(ValueError, match=said):
        check_url(url, allow_private=False)


def test_a_host_that_nobody_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that was misspelt is told at once."""

    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ValueError, match="not known"):
        check_url("https://receiver.example/", allow_private=False)
    with pytest.raises(DeliveryFailed, match="not known"):
        post("https://receiver.example/", allow_private=False)


def resolve(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let every name stand for these addresses."""

    def found(_host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", found)


# Delivery


def post(url: str, *, allow_private: bool = True) -> None:
    """Send the standard's message."""
    send(url, secret=SECRET, message_id=MESSAGE, at=AT, body=BODY, allow_private=allow_private)


@contextmanager
def raw(answer: Answer) -> Iterator[str]:
    """A receiver that does what it likes with the connection; its URL."""

    def accept() -> None:
        connection, _ = listening.accept()
        with connection:
            received = b""
            while not received.endswith(BODY) and not received.startswith(TLS_HANDSHAKE):
                received += connection.recv(65_536)
            answer(connection)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        thread.join(5)


def test_a_receiver_gets_the_body_with_the_headers_of_the_standard() -> None:
    """At the path and with the query that the URL names."""
    with receiver() as there:
        post(f"{there.url}/hook?token=1")
    request = there.received.get_nowait()
    assert (request.path, request.body) == ("/hook?token=1", BODY)
    assert request.headers["webhook-id"] == MESSAGE
    assert request.headers["webhook-timestamp"] == "1614265330"
    assert request.headers["webhook-signature"] == SIGNATURE
    assert request.headers["content-type"] == "application/json"


@pytest.mark.parametrize("status", [200, 202, 204, 299])
def test_any_2xx_is_taken_for_yes(status: int) -> None:
    """As the standard says."""
    with receiver(status) as there:
        post(there.url)


@pytest.mark.parametrize("status", [304, 400, 401, 404, 429, 500, 503])
def test_any_other_answer_is_a_failure(status: int) -> None:
    """It names the status and not the address, which may carry a token."""
    with receiver(status) as there, pytest.raises(DeliveryFailed, match=str(status)) as caught:
        post(there.url)
    assert "127.0.0.1" not in str(caught.value)


def test_410_says_that_nothing_more_is_wanted() -> None:
    """It is told from other failures."""
    with receiver(410) as there, pytest.raises(Gone):
        post(there.url)


def test_no_redirect_is_followed() -> None:
    """It could lead into a private network."""
    with receiver() as elsewhere, receiver(307, {"location": elsewhere.url}) as there:
        with pytest.raises(DeliveryFailed, match="307"):
            post(there.url)
        assert elsewhere.received.empty()


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that stands for another address a moment later leads nowhere."""
    connected: list[str] = []

    def connect(address: tuple[str, int], _timeout: float) -> socket.socket:
        connected.append(address[0])
        raise ConnectionRefusedError

    resolve(monkeypatch, "8.8.8.8", "9.9.9.9")
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(DeliveryFailed, match="ConnectionRefusedError"):
        post("https://receiver.example/", allow_private=False)
    assert connected == ["8.8.8.8", "9.9.9.9"]
    resolve(monkeypatch, "127.0.0.1")
    with pytest.raises(DeliveryFailed, match="public"):
        post("https://receiver.example/", allow_private=False)
    assert connected == ["8.8.8.8", "9.9.9.9"]


def drip(connection: socket.socket) -> None:
    """Answer a byte at a time, and never to the end, until the sender has gone."""
    connection.sendall(b"HTTP/1.1 200 OK")
    while not select.select([connection], [], [], 0.02)[0]:
        connection.sendall(b"!")


def silence(connection: socket.socket) -> None:
    """Answer nothing until the sender has gone."""
    connection.recv(1)


@pytest.mark.parametrize("answer", [drip, silence])
def test_a_receiver_that_is_slow_is_waited_for_so_long_and_no_longer(
    answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if it keeps sending; it may have taken the message."""
    monkeypatch.setattr(webhooks, "TIMEOUT_SECONDS", 0.2)
    with raw(answer) as url, pytest.raises(TimeoutError):
        post(url)


@pytest.mark.parametrize("content", [b"", b"not http\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 1_000])
def test_a_receiver_that_does_not_speak_http_is_a_failure(content: bytes) -> None:
    """Whatever it says, so much of it is read and no more."""
    with raw(lambda connection: connection.sendall(content)) as url, pytest.raises(DeliveryFailed):
        post(url)


def test_the_body_of_the_answer_is_not_waited_for() -> None:
    """Its head is enough."""
    with raw(lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")) as url:
        post(url)


def test_a_receiver_whose_certificate_is_not_known_is_a_failure() -> None:
    """Nothing is sent over a connection that is not secure."""
    answer = b"HTTP/1.1 200 OK\r\n\r\n"
    with raw(lambda connection: connection.sendall(answer)) as url, pytest.raises(DeliveryFailed, match="SSL"):
        post(url.replace("http:", "https:"))


def test_the_certificate_must_be_for_the_name_and_not_for_the_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The connection goes to the address that was checked, and is secured by the name that the URL has."""
    server, client = certified("receiver.example", tmp_path)
    monkeypatch.setattr(webhooks, "_tls", lambda: client)
    resolve(monkeypatch, "127.0.0.1")
    with receiver(tls=server) as there:
        port = there.url.rpartition(":")[2]
        post(f"https://receiver.example:{port}/")
        assert there.received.get_nowait().headers["host"] == f"receiver.example:{port}"
        with pytest.raises(DeliveryFailed, match="SSLCertVerificationError"):
            post(f"https://other.example:{port}/")
        assert there.received.empty()


def certified(name: str, folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What a server shows to be a name, and a client that believes it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2000, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2100, 1, 1, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM)
    file = folder / "server.pem"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cadata=pem.decode())


# Webhooks of the deployment


def put(store: MemoryCatalog, name: str = "w1", url: str = "https://8.8.8.8/a") -> tuple[Any, str | None]:
    """Put a webhook."""
    return put_webhook(store, name, url=url, events=("usage.threshold_reached",), clock=Clock(), allow_private=False)


def test_the_secret_of_a_webhook_is_shown_once() -> None:
    """A change of the webhook keeps it."""
    store = MemoryCatalog()
    made, secret = put(store)
    assert secret == made.secret
    assert put(store, url="https://8.8.8.8/b") == (webhook(store, "w1"), None)
    assert (webhook(store, "w1").secret, webhook(store, "w1").url) == (secret, "https://8.8.8.8/b")
    assert str(secret) not in repr(made)


def test_there_are_at_most_10_webhooks() -> None:
    """Each is a request for each event; one that is there can still be changed."""
    store = MemoryCatalog()
    for number in range(MAX_WEBHOOKS):
        put(store, f"w{number}")
    with pytest.raises(Conflict):
        put(store, "one-more")
    put(store, "w9", "https://8.8.8.8/b")
    remove_webhook(store, "w0")
    put(store, "one-more")
    assert [one.id for one in store.webhooks()] == [*(f"w{number}" for number in range(1, 10)), "one-more"]


def test_a_webhook_must_be_where_events_may_go_and_want_what_there_is() -> None:
    """Nothing is written else."""
    store = MemoryCatalog()
    with pytest.raises(InvalidInput) as caught:
        put(store, url="https://169.254.169.254/")
    assert [fault.pointer for fault in caught.value.errors] == ["/url"]
    for events in ((), ("invoice.eaten",)):
        with pytest.raises(InvalidInput) as caught:
            put_webhook(store, "w1", url="https://8.8.8.8/", events=events, clock=Clock(), allow_private=False)
        assert [fault.pointer for fault in caught.value.errors] == ["/events"]
    assert store.webhooks() == ()


def test_a_webhook_that_does_not_exist_is_not_found() -> None:
    """Read or removed."""
    with pytest.raises(NotFound):
        webhook(MemoryCatalog(), "w1")
    with pytest.raises(NotFound):
        remove_webhook(MemoryCatalog(), "w1")


def test_a_disabled_webhook_is_enabled_when_it_is_put_again() -> None:
    """One that has been changed since it said that it is gone is not disabled."""
    store = MemoryCatalog()
    before, _ = put(store)
    disable_webhook(store, before, at=NOW)
    assert webhook(store, "w1").disabled_at == NOW
    put(store, url="https://8.8.8.8/b")
    assert webhook(store, "w1").disabled_at is None
    disable_webhook(store, before, at=NOW)
    assert webhook(store, "w1").disabled_at is None


def test_a_new_secret_signs_beside_the_one_before_for_a_day() -> None:
    """And alone from then on; each is shown once, when it is made."""
    catalog, clock = MemoryCatalog(), Clock()
    made, first = put_webhook(
        catalog, "hook", url="https://1.1.1.1/", events=("invoice.paid",), clock=clock, allow_private=False
    )
    assert made.secrets(clock()) == (first,)
    rotated = rotate_secret(catalog, "hook", clock=clock)
    assert rotated.secret != first
    assert webhook(catalog, "hook").secrets(clock()) == (rotated.secret, first)
    clock.forward(OVERLAP - timedelta(seconds=1))
    assert webhook(catalog, "hook").secrets(clock()) == (rotated.secret, first)
    clock.forward(timedelta(seconds=1))
    assert webhook(catalog, "hook").secrets(clock()) == (rotated.secret,)


def test_secrets_that_are_replaced_in_haste_all_sign_for_a_day() -> None:
    """The last three: whoever sends a request again, because its answer was lost, locks no receiver out."""
    catalog, clock = MemoryCatalog(), Clock()
    put_webhook(catalog, "hook", url="https://1.1.1.1/", events=("invoice.paid",), clock=clock, allow_private=False)
    secrets = [webhook(catalog, "hook").secret]
    secrets += [rotate_secret(catalog, "hook", clock=clock).secret for _ in range(4)]
    assert webhook(catalog, "hook").secrets(clock()) == tuple(reversed(secrets[1:]))


def test_the_secret_of_what_is_not_there_cannot_be_replaced() -> None:
    """404."""
    with pytest.raises(NotFound):
        rotate_secret(MemoryCatalog(), "hook", clock=Clock())


def test_a_receiver_can_verify_with_either_secret() -> None:
    """The header has a signature by each, as the standard says."""
    with receiver() as it:
        send(
            it.url,
            secret="whsec_bmV3",
            retired=[SECRET],
            message_id=MESSAGE,
            at=AT,
            body=BODY,
            allow_private=True,
        )
    signatures = it.received.get().headers["webhook-signature"].split(" ")
    assert signatures == [sign("whsec_bmV3", MESSAGE, AT, BODY), SIGNATURE]
