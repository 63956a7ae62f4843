"""API keys: made once, shown once, found by the request that carries them, and forgotten in time."""

from dataclasses import asdict
from datetime import timedelta

import pytest

from tests.unit.fakes_catalog import MemoryCatalog
from tests.unit.fakes_recovery import NOW, Clock
from tollgate.catalog.keys import CACHE_SECONDS, SCOPES, ApiKey, KeyRing, create_key
from tollgate.kernel.errors import Conflict, InvalidInput
from tollgate.kernel.ids import is_id

READER = ("usage:read",)


class CountingStore(MemoryCatalog):
    """Counts how often a key is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []

    def key(self, key_id: str) -> ApiKey | None:
        """The key, and one read more."""
        self.reads.append(key_id)
        return super().key(key_id)


@pytest.fixture
def store() -> CountingStore:
    """A store with no keys."""
    return CountingStore()


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def ring(store: CountingStore, clock: Clock) -> KeyRing:
    """A warm authorizer."""
    return KeyRing(store, clock)


def made(store: MemoryCatalog, name: str = "ci", *, idempotency_key: str | None = None) -> tuple[ApiKey, str]:
    """A new key and its secret."""
    key, secret = create_key(store, name=name, scopes=READER, clock=Clock(), idempotency_key=idempotency_key)
    assert secret is not None
    return key, secret


# Making


def test_a_new_key_is_shown_once_and_kept_as_a_hash(store: CountingStore) -> None:
    """Whoever reads the table, or a log of the record, learns no secret."""
    key, secret = made(store)
    assert (key.name, key.scopes, key.created_at) == ("ci", READER, NOW)
    assert is_id(key.id)
    assert secret.startswith(f"tg_{key.id}_")
    kept = store.key(key.id)
    assert kept == key
    assert secret.removeprefix(f"tg_{key.id}_") not in str(asdict(key))
    assert key.secret_hash not in repr(key)


def test_no_two_keys_are_alike(store: CountingStore) -> None:
    """Neither their ids nor their secrets."""
    keys = [made(store) for _ in range(20)]
    assert len({key.id for key, _ in keys}) == len({secret.split("_")[2] for _, secret in keys}) == 20


def test_a_secret_cannot_be_guessed() -> None:
    """256 bits of it."""
    _, secret = made(MemoryCatalog())
    assert len(bytes.fromhex(secret.split("_")[2])) == 32


@pytest.mark.parametrize("scope", ["", "usage", "usage:write", "ADMIN", "*"])
def test_an_unknown_scope_is_refused_by_its_place(store: CountingStore, scope: str) -> None:
    """And the scopes there are are told."""
    with pytest.raises(InvalidInput) as refusal:
        create_key(store, name="ci", scopes=("usage:read", scope), clock=Clock())
    (fault,) = refusal.value.errors
    assert fault.pointer == "/scopes/1"
    assert all(known in fault.detail for known in SCOPES)
    assert store.list_keys(None, 10) == ([], None)


def test_a_key_with_no_scope_is_refused(store: CountingStore) -> None:
    """It could do nothing."""
    with pytest.raises(InvalidInput) as refusal:
        create_key(store, name="ci", scopes=(), clock=Clock())
    assert [fault.pointer for fault in refusal.value.errors] == ["/scopes"]


def test_a_scope_named_twice_is_held_once(store: CountingStore) -> None:
    """In the order they were named."""
    key, _ = create_key(store, name="ci", scopes=("usage:read", "admin", "usage:read"), clock=Clock())
    assert key.scopes == ("usage:read", "admin")


def test_a_repeated_request_finds_the_key_of_the_first_without_its_secret(store: CountingStore) -> None:
    """The secret of the first answer goes on working: nothing was made anew."""
    first, secret = made(store, idempotency_key="deploy-7")
    again, none = create_key(store, name="ci", scopes=READER, clock=Clock(), idempotency_key="deploy-7")
    assert (again, none) == (first, None)
    assert KeyRing(store, Clock()).find(f"Bearer {secret}") == first


@pytest.mark.parametrize(("name", "scopes"), [("other", READER), ("ci", ("usage:read", "admin"))])
def test_an_idempotency_key_with_another_body_is_a_conflict(
    store: CountingStore, name: str, scopes: tuple[str, ...]
) -> None:
    """It changes nothing: above all no key gains a scope."""
    first, _ = made(store, idempotency_key="deploy-7")
    with pytest.raises(Conflict):
        create_key(store, name=name, scopes=scopes, clock=Clock(), idempotency_key="deploy-7")
    assert store.list_keys(None, 10) == ([first], None)


def test_another_idempotency_key_makes_another_key(store: CountingStore) -> None:
    """Even with the same body."""
    assert made(store, idempotency_key="a")[0].id != made(store, idempotency_key="b")[0].id


# Finding


def test_a_request_is_known_by_its_key(store: CountingStore, ring: KeyRing) -> None:
    """The scheme is read in any case, RFC 9110; spaces around the key mean nothing."""
    key, secret = made(store)
    for header in (f"Bearer {secret}", f"bearer {secret}", f"BEARER  {secret} "):
        assert ring.find(header) == key


def test_a_wrong_secret_is_nobodys(store: CountingStore, ring: KeyRing) -> None:
    """Neither a part of the secret, nor more than it, nor another key's, nor the hash that is kept."""
    key, secret = made(store)
    _, other = made(store)
    wrong = [secret[:-1], secret + "0", f"tg_{key.id}_{other.split('_')[2]}", f"tg_{key.id}_{key.secret_hash}"]
    assert [ring.find(f"Bearer {token}") for token in (*wrong, f"tg_{key.id}_")] == [None] * 5


def test_an_unknown_key_is_nobodys(ring: KeyRing) -> None:
    """An empty secret too, which is what the hash stands for that unknown keys are compared with."""
    assert ring.find("Bearer tg_0123456789abcdef_0123") is None
    assert ring.find("Bearer tg_0123456789abcdef_") is None


@pytest.mark.parametrize(
    "header",
    [
        *(None, "", "Bearer", "Bearer ", "Bearer x", "Bearer tg_a", "Bearer tg_a_b_c", "Bearer xx_a_b", "Basic tg_a_b"),
        *("tg_a_b", "Bearer tg__b", "Bearer tg_a#b_c", "Bearer tg_\N{LATIN SMALL LETTER E WITH ACUTE}_c"),
        *("Bearer tg_\N{ARABIC-INDIC DIGIT ONE}_c", "Bearer tg_a/../b_c"),
    ],
)
def test_a_malformed_header_is_nobodys_and_reads_nothing(
    store: CountingStore, ring: KeyRing, header: str | None
) -> None:
    """Only what may be a key reaches the table."""
    assert ring.find(header) is None
    assert store.reads == []


def test_a_secret_of_any_characters_is_compared(store: CountingStore, ring: KeyRing) -> None:
    """A header that is not ASCII is wrong, and no error of ours."""
    key, _ = made(store)
    assert ring.find(f"Bearer tg_{key.id}_\N{SNOWMAN}") is None
    assert ring.find(f"Bearer tg_{key.id}_\udcff") is None


# Remembering


def test_a_warm_authorizer_reads_a_key_once_in_cache_seconds(store: CountingStore, ring: KeyRing, clock: Clock) -> None:
    """The time counts from the read, not from the last request."""
    key, secret = made(store)
    for _ in range(CACHE_SECONDS):
        assert ring.find(f"Bearer {secret}") == key
        clock.forward(timedelta(seconds=1))
    assert store.reads == [key.id]
    clock.forward(timedelta(seconds=1))
    assert ring.find(f"Bearer {secret}") == key
    assert store.reads == [key.id, key.id]


def test_a_deleted_key_stops_after_cache_seconds(store: CountingStore, ring: KeyRing, clock: Clock) -> None:
    """And goes on no longer than that, however often it is used."""
    key, secret = made(store)
    assert ring.find(f"Bearer {secret}")
    assert store.delete_key(key.id)
    clock.forward(timedelta(seconds=CACHE_SECONDS))
    assert ring.find(f"Bearer {secret}")
    clock.forward(timedelta(microseconds=1))
    assert ring.find(f"Bearer {secret}") is None


def test_a_cold_authorizer_never_knows_a_deleted_key(store: CountingStore, clock: Clock) -> None:
    """What one instance remembers, another does not."""
    key, secret = made(store)
    store.delete_key(key.id)
    assert KeyRing(store, clock).find(f"Bearer {secret}") is None


def test_an_unknown_key_is_remembered_as_unknown_for_as_long(store: CountingStore, ring: KeyRing, clock: Clock) -> None:
    """Whoever hammers with one reads the table no oftener; a key made meanwhile is found after that time."""
    _, secret = made(MemoryCatalog(), idempotency_key="deploy-7")
    key_id = secret.split("_")[1]
    for _ in range(10):
        assert ring.find(f"Bearer {secret}") is None
    assert store.reads == [key_id]
    _, real = made(store, idempotency_key="deploy-7")
    assert ring.find(f"Bearer {real}") is None
    clock.forward(timedelta(seconds=CACHE_SECONDS + 1))
    assert ring.find(f"Bearer {real}")


def test_a_wrong_secret_does_not_shut_out_the_right_one(store: CountingStore, ring: KeyRing) -> None:
    """The key is remembered, not the verdict."""
    key, secret = made(store)
    assert ring.find(f"Bearer {secret[:-1]}") is None
    assert ring.find(f"Bearer {secret}") == key


def test_what_is_remembered_is_bounded(store: CountingStore, ring: KeyRing) -> None:
    """Made-up keys fill no memory: after enough of them the first is forgotten and read again."""
    key, secret = made(store)
    assert ring.find(f"Bearer {secret}") == key
    for number in range(2_000):
        ring.find(f"Bearer tg_{number}_x")
    assert ring.find(f"Bearer {secret}") == key
    assert store.reads.count(key.id) == 2
