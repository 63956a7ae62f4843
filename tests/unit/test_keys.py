"""API keys: made once, shown once, given another secret, and ended. How they are found: test_keyring.py."""

import re
import zlib
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.unit.fakes_catalog import MemoryCatalog
from tests.unit.fakes_recovery import NOW, Clock
from tollgate.catalog.keyring import KeyRing
from tollgate.catalog.keys import (
    KEY_PATTERN,
    MAX_LIFETIME,
    MAX_OVERLAP_SECONDS,
    SCOPES,
    ApiKey,
    KeyLimit,
    create_key,
    hash_of,
    read_token,
    rotate_key,
)
from tollgate.kernel.errors import Conflict, InvalidInput, NotFound
from tollgate.kernel.ids import is_id

READER = ("usage:read",)
BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def store() -> MemoryCatalog:
    """A store with no keys."""
    return MemoryCatalog()


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


def made(store: MemoryCatalog, name: str = "ci", *, idempotency_key: str | None = None) -> tuple[ApiKey, str]:
    """A new key and its secret."""
    key, secret = create_key(store, name=name, scopes=READER, clock=Clock(), idempotency_key=idempotency_key)
    assert secret is not None
    return key, secret


# Making


def test_a_new_key_is_shown_once_and_kept_as_a_hash(store: MemoryCatalog) -> None:
    """Whoever reads the table, or a log of the record, learns no secret."""
    key, secret = made(store)
    assert (key.name, key.scopes, key.created_at) == ("ci", READER, NOW)
    assert is_id(key.id)
    assert secret.startswith(f"tg_{key.id}_")
    kept = store.key(key.id)
    assert kept == key
    assert secret.removeprefix(f"tg_{key.id}_") not in str(asdict(key))
    assert key.secret_hash not in repr(key)


def test_no_two_keys_are_alike(store: MemoryCatalog) -> None:
    """Neither their ids nor their secrets."""
    keys = [made(store) for _ in range(20)]
    assert len({key.id for key, _ in keys}) == len({secret.split("_")[2] for _, secret in keys}) == 20


def test_a_secret_cannot_be_guessed() -> None:
    """256 bits of it, before the checksum."""
    _, secret = made(MemoryCatalog())
    digits = secret.split("_")[2][:-6]
    assert set(digits) <= set(BASE62)
    assert 62 ** len(digits) >= 2**256


@pytest.mark.parametrize("idempotency_key", [None, "deploy-7"])
def test_a_key_ends_in_its_checksum(store: MemoryCatalog, idempotency_key: str | None) -> None:
    """CRC-32 of all before it, in six digits of base 62: what a scanner needs to tell a key from noise."""
    key, secret = made(store, idempotency_key=idempotency_key)
    total = 0
    for digit in secret[-6:]:
        total = total * 62 + BASE62.index(digit)
    assert total == zlib.crc32(secret[:-6].encode())
    assert re.fullmatch(KEY_PATTERN, secret)
    assert read_token(secret) == (key.id, secret.removeprefix(f"{key.prefix}_"))


def test_every_slip_of_the_pen_is_told_by_the_checksum(store: MemoryCatalog) -> None:
    """One character that is another, left out or written twice; anywhere, in the id too."""
    _, secret = made(store)
    for place in range(len(secret)):
        other = "b" if secret[place] != "b" else "c"
        assert read_token(secret[:place] + other + secret[place + 1 :]) is None
        assert read_token(secret[:place] + secret[place + 1 :]) is None
        assert read_token(secret[:place] + secret[place] + secret[place:]) is None


def test_a_key_of_before_the_checksums_is_read(store: MemoryCatalog) -> None:
    """64 hexadecimal digits, kept as their hash."""
    old = "0123456789abcdef" * 4
    store.add_key(ApiKey("0123456789abcdef", "old", READER, hash_of(old), NOW))
    token = f"tg_0123456789abcdef_{old}"
    assert re.fullmatch(KEY_PATTERN, token)
    assert read_token(token) == ("0123456789abcdef", old)
    found = KeyRing(store, Clock()).find(f"Bearer {token}")
    assert found is not None
    assert found.name == "old"


def test_the_documentation_has_the_pattern_of_keys() -> None:
    """For secret scanners, as it is."""
    assert KEY_PATTERN in (ROOT / "docs/security.md").read_text()


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"expires_at": NOW}, "/expires_at"),
        ({"expires_at": NOW - timedelta(days=1)}, "/expires_at"),
        ({"expires_at": NOW + MAX_LIFETIME + timedelta(microseconds=1)}, "/expires_at"),
        ({"rate_limit": KeyLimit(0, 1)}, "/rate_limit/limit"),
        ({"rate_limit": KeyLimit(1_000_000_001, 1)}, "/rate_limit/limit"),
        ({"rate_limit": KeyLimit(1, 0)}, "/rate_limit/window_seconds"),
        ({"rate_limit": KeyLimit(1, 86_401)}, "/rate_limit/window_seconds"),
    ],
)
def test_an_end_or_a_limit_out_of_range_is_refused_by_its_place(
    store: MemoryCatalog, change: dict[str, Any], pointer: str
) -> None:
    """And no key is made."""
    with pytest.raises(InvalidInput) as refusal:
        create_key(store, name="ci", scopes=READER, clock=Clock(), **change)
    assert [fault.pointer for fault in refusal.value.errors] == [pointer]
    assert store.list_keys(None, 10) == ([], None)


def test_a_repeated_request_finds_a_key_that_has_ended_meanwhile(store: MemoryCatalog, clock: Clock) -> None:
    """It is the same request, though it could not be made now."""
    asked: dict[str, Any] = {"name": "ci", "scopes": READER, "expires_at": NOW + timedelta(hours=1)}
    first, _ = create_key(store, **asked, clock=clock, idempotency_key="deploy-7")
    clock.forward(timedelta(days=1))
    assert create_key(store, **asked, clock=clock, idempotency_key="deploy-7") == (first, None)


@pytest.mark.parametrize("scope", ["", "usage", "usage:write", "ADMIN", "*"])
def test_an_unknown_scope_is_refused_by_its_place(store: MemoryCatalog, scope: str) -> None:
    """And the scopes there are are told."""
    with pytest.raises(InvalidInput) as refusal:
        create_key(store, name="ci", scopes=("usage:read", scope), clock=Clock())
    (fault,) = refusal.value.errors
    assert fault.pointer == "/scopes/1"
    assert all(known in fault.detail for known in SCOPES)
    assert store.list_keys(None, 10) == ([], None)


def test_a_key_with_no_scope_is_refused(store: MemoryCatalog) -> None:
    """It could do nothing."""
    with pytest.raises(InvalidInput) as refusal:
        create_key(store, name="ci", scopes=(), clock=Clock())
    assert [fault.pointer for fault in refusal.value.errors] == ["/scopes"]


def test_a_scope_named_twice_is_held_once(store: MemoryCatalog) -> None:
    """In the order they were named."""
    key, _ = create_key(store, name="ci", scopes=("usage:read", "admin", "usage:read"), clock=Clock())
    assert key.scopes == ("usage:read", "admin")


def test_a_repeated_request_finds_the_key_of_the_first_without_its_secret(store: MemoryCatalog) -> None:
    """The secret of the first answer goes on working: nothing was made anew."""
    first, secret = made(store, idempotency_key="deploy-7")
    again, none = create_key(store, name="ci", scopes=READER, clock=Clock(), idempotency_key="deploy-7")
    assert (again, none) == (first, None)
    assert KeyRing(store, Clock()).find(f"Bearer {secret}") == first


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"scopes": ("usage:read", "admin")},
        {"expires_at": NOW + timedelta(days=1)},
        {"rate_limit": KeyLimit(1, 60)},
    ],
)
def test_an_idempotency_key_with_another_body_is_a_conflict(store: MemoryCatalog, change: dict[str, Any]) -> None:
    """It changes nothing: above all no key gains a scope."""
    first, _ = made(store, idempotency_key="deploy-7")
    asked: dict[str, Any] = {"name": "ci", "scopes": READER} | change
    with pytest.raises(Conflict):
        create_key(store, **asked, clock=Clock(), idempotency_key="deploy-7")
    assert store.list_keys(None, 10) == ([first], None)


def test_another_idempotency_key_makes_another_key(store: MemoryCatalog) -> None:
    """Even with the same body."""
    assert made(store, idempotency_key="a")[0].id != made(store, idempotency_key="b")[0].id


# Rotating


def opens(store: MemoryCatalog, clock: Clock, *secrets: str | None) -> list[bool]:
    """Which of the secrets a cold authorizer knows."""
    return [KeyRing(store, clock).find(f"Bearer {secret}") is not None for secret in secrets]


def rotated(store: MemoryCatalog, key: ApiKey, clock: Clock, **asked: Any) -> str:
    """Another secret for a key."""
    _, secret = rotate_key(store, key.id, clock=clock, **asked)
    assert secret is not None
    return secret


def test_a_rotated_key_has_two_secrets_until_the_overlap_ends(store: MemoryCatalog, clock: Clock) -> None:
    """A day where nothing else is said; to the instant."""
    key, first = made(store)
    second = rotated(store, key, clock)
    assert second.startswith(f"{key.prefix}_")
    assert opens(store, clock, first, second) == [True, True]
    clock.forward(timedelta(days=1, microseconds=-1))
    assert opens(store, clock, first, second) == [True, True]
    clock.forward(timedelta(microseconds=1))
    assert opens(store, clock, first, second) == [False, True]


def test_a_rotation_with_no_overlap_ends_the_secret_before_at_once(store: MemoryCatalog, clock: Clock) -> None:
    """For a secret that has leaked; nothing is kept of it."""
    key, first = made(store)
    second = rotated(store, key, clock, overlap_seconds=0)
    assert opens(store, clock, first, second) == [False, True]
    kept = store.key(key.id)
    assert kept is not None
    assert hash_of(first.split("_")[2]) not in str(asdict(kept))


def test_at_most_two_secrets_are_good_at_once(store: MemoryCatalog, clock: Clock) -> None:
    """Rotated once more within the overlap, the oldest ends."""
    key, first = made(store)
    second = rotated(store, key, clock)
    third = rotated(store, key, clock, overlap_seconds=60)
    assert opens(store, clock, first, second, third) == [False, True, True]
    clock.forward(timedelta(seconds=60))
    assert opens(store, clock, first, second, third) == [False, False, True]


def test_a_rotation_changes_nothing_but_the_secrets(store: MemoryCatalog, clock: Clock) -> None:
    """Neither name, scopes, end nor limit."""
    end = NOW + timedelta(days=9)
    key, _ = create_key(store, name="ci", scopes=READER, expires_at=end, rate_limit=KeyLimit(5, 60), clock=clock)
    after, secret = rotate_key(store, key.id, clock=clock, overlap_seconds=60)
    assert secret is not None
    until = NOW + timedelta(seconds=60)
    parts: dict[str, Any] = {
        "secret_hash": hash_of(secret.split("_")[2]),
        "previous_hash": key.secret_hash,
        "previous_until": until,
    }
    assert after == store.key(key.id) == replace(key, **parts)


def test_a_repeated_rotation_changes_nothing_and_shows_no_secret(store: MemoryCatalog, clock: Clock) -> None:
    """Also after another one."""
    key, first = made(store)
    second = rotated(store, key, clock, idempotency_key="night-1")
    assert rotate_key(store, key.id, clock=clock, idempotency_key="night-1") == (store.key(key.id), None)
    assert opens(store, clock, first, second) == [True, True]
    third = rotated(store, key, clock, idempotency_key="night-2")
    assert rotate_key(store, key.id, clock=clock, idempotency_key="night-1")[1] is None
    assert opens(store, clock, first, second, third) == [False, True, True]


def test_a_repeated_rotation_with_another_overlap_is_a_conflict(store: MemoryCatalog, clock: Clock) -> None:
    """And changes nothing."""
    key, first = made(store)
    second = rotated(store, key, clock, idempotency_key="night-1")
    with pytest.raises(Conflict):
        rotate_key(store, key.id, clock=clock, idempotency_key="night-1", overlap_seconds=0)
    assert opens(store, clock, first, second) == [True, True]


def test_what_is_remembered_of_rotations_is_bounded(store: MemoryCatalog, clock: Clock) -> None:
    """A key that is rotated every night does not grow."""
    key, _ = made(store)
    for night in range(30):
        rotated(store, key, clock, idempotency_key=f"night-{night}")
    kept = store.key(key.id)
    assert kept is not None
    assert len(kept.rotations) == 10


def test_of_two_rotations_at_the_same_time_one_is_refused(clock: Clock) -> None:
    """So that neither ends the secret of before, which both meant to keep."""

    class Raced(MemoryCatalog):
        """Somebody else rotates between the read and the write."""

        meanwhile: Callable[[], object] | None = None

        def rotate_key(self, before: ApiKey, after: ApiKey) -> bool:
            meanwhile, self.meanwhile = self.meanwhile, None
            if meanwhile:
                meanwhile()
            return super().rotate_key(before, after)

    store = Raced()
    key, first = made(store)
    others: list[str] = []
    store.meanwhile = lambda: others.append(rotated(store, key, clock))
    with pytest.raises(Conflict):
        rotate_key(store, key.id, clock=clock)
    assert opens(store, clock, first, *others) == [True, True]


def test_a_rotation_whose_answer_was_lost_on_its_way_from_the_database_still_shows_its_secret(clock: Clock) -> None:
    """The client of AWS sends a write again, which then finds its own secret in place of the one before."""

    class Forgetful(MemoryCatalog):
        """Writes, and hears of its second try alone."""

        def rotate_key(self, before: ApiKey, after: ApiKey) -> bool:
            super().rotate_key(before, after)
            return super().rotate_key(before, after)

    store = Forgetful()
    key, first = made(store)
    second = rotated(store, key, clock)
    assert opens(store, clock, first, second) == [True, True]


def test_a_key_that_is_not_there_or_has_ended_is_not_rotated(store: MemoryCatalog, clock: Clock) -> None:
    """A new secret would open nothing."""
    with pytest.raises(NotFound):
        rotate_key(store, "0123456789abcdef", clock=clock)
    end = NOW + timedelta(hours=1)
    key, _ = create_key(store, name="ci", scopes=READER, expires_at=end, clock=clock)
    clock.forward(timedelta(hours=1))
    with pytest.raises(Conflict):
        rotate_key(store, key.id, clock=clock)
    assert store.key(key.id) == key


@pytest.mark.parametrize("overlap", [-1, MAX_OVERLAP_SECONDS + 1])
def test_an_overlap_out_of_range_is_refused(store: MemoryCatalog, clock: Clock, overlap: int) -> None:
    """A secret that never ends is what rotating is against."""
    key, _ = made(store)
    with pytest.raises(InvalidInput) as refusal:
        rotate_key(store, key.id, clock=clock, overlap_seconds=overlap)
    assert [fault.pointer for fault in refusal.value.errors] == ["/overlap_seconds"]
    assert store.key(key.id) == key
