"""A key is found by the request that carries it, forgotten in time, marked as used, and held to its rate limit."""

import hmac
import re
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.unit.fakes_catalog import MemoryCatalog
from tests.unit.fakes_recovery import NOW, Clock
from tollgate.catalog import keyring
from tollgate.catalog.keyring import KeyLimits, KeyRing
from tollgate.catalog.keys import CACHE_SECONDS, ApiKey, KeyLimit, create_key, hash_of, rotate_key
from tollgate.kernel.errors import Unavailable

READER = ("usage:read",)
OLD_SECRET = "0123456789abcdef" * 4


class CountingStore(MemoryCatalog):
    """Counts what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []
        self.marks: list[str] = []
        self.counts: list[str] = []

    def key(self, key_id: str) -> ApiKey | None:
        """The key, and one read more."""
        self.reads.append(key_id)
        return super().key(key_id)

    def mark_used(self, key_id: str, *, at: datetime, unless_after: datetime) -> None:
        """One mark more."""
        self.marks.append(key_id)
        super().mark_used(key_id, at=at, unless_after=unless_after)

    def open_window(self, key_id: str, window: int) -> bool:
        """One write more."""
        self.counts.append("open")
        return super().open_window(key_id, window)

    def count_in_window(self, key_id: str, window: int, limit: int) -> bool:
        """One write more."""
        self.counts.append("count")
        return super().count_in_window(key_id, window, limit)


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


def made(store: MemoryCatalog, **asked: Any) -> tuple[ApiKey, str]:
    """A new key and its secret; nothing is counted of its making."""
    key, secret = create_key(store, name="ci", scopes=READER, clock=Clock(), **asked)
    assert secret is not None
    if isinstance(store, CountingStore):
        store.reads.clear()
    return key, secret


def stranger() -> str:
    """A key as good as any, of another deployment."""
    return made(MemoryCatalog())[1]


def old_form(store: MemoryCatalog) -> str:
    """A key of before the checksums, whose secret can be changed without one."""
    store.add_key(ApiKey("0123456789abcdef", "old", READER, hash_of(OLD_SECRET), NOW))
    return f"tg_0123456789abcdef_{OLD_SECRET}"


# Finding


def test_a_flood_of_made_up_keys_takes_nobodys_from_memory(
    store: CountingStore, ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take each other's places; who has a key is read as seldom as ever."""
    monkeypatch.setattr(keyring, "_MAX_KNOWN", 10)
    key, secret = made(store)
    assert ring.find(f"Bearer {secret}") == key
    for _ in range(30):
        assert ring.find(f"Bearer {stranger()}") is None
    assert ring.find(f"Bearer {secret}") == key
    assert store.reads.count(key.id) == 1


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


def test_a_wrong_secret_in_the_right_form_is_read_and_refused(store: CountingStore, ring: KeyRing) -> None:
    """Every digit of it counts."""
    right = old_form(store)
    for place in range(len(right) - 64, len(right)):
        other = "0" if right[place] != "0" else "1"
        assert ring.find(f"Bearer {right[:place]}{other}{right[place + 1 :]}") is None
    assert len(store.reads) == 64
    assert ring.find(f"Bearer {right}")


def test_an_unknown_key_is_nobodys(store: CountingStore, ring: KeyRing) -> None:
    """One of another deployment, with a good checksum."""
    token = stranger()
    assert ring.find(f"Bearer {token}") is None
    assert store.reads == [token.split("_")[1]]


@pytest.mark.parametrize(
    "header",
    [
        *(None, "", "Bearer", "Bearer ", "Bearer x", "Bearer tg_a", "Bearer tg_a_b_c", "Bearer xx_a_b", "Basic tg_a_b"),
        *("tg_a_b", "Bearer tg__b", "Bearer tg_a#b_c", "Bearer tg_\N{LATIN SMALL LETTER E WITH ACUTE}_c"),
        *("Bearer tg_\N{ARABIC-INDIC DIGIT ONE}_c", "Bearer tg_a/../b_c", "Bearer tg_0123456789abcdef_\N{SNOWMAN}"),
        "Bearer tg_0123456789abcdef_\udcff",
        f"Basic tg_0123456789abcdef_{OLD_SECRET}",
        f"tg_0123456789abcdef_{OLD_SECRET}",
        f"Bearer TG_0123456789abcdef_{OLD_SECRET}",
        f"Bearer tg_0123456789abcde_{OLD_SECRET}",
        f"Bearer tg_0123456789abcdeg_{OLD_SECRET}",
        f"Bearer tg_0123456789ABCDEF_{OLD_SECRET}",
        f"Bearer tg_0123456789abcdef_{OLD_SECRET[:-1]}",
        f"Bearer tg_0123456789abcdef_{OLD_SECRET}0",
        f"Bearer tg_0123456789abcdef_{OLD_SECRET.upper()}",
        f"Bearer tg_0123456789abcdef_{'0' * 49}",
        "Bearer eyJhbGciOiJub25lIn0.e30.",
    ],
)
def test_what_cannot_be_a_key_is_nobodys_and_reads_nothing(
    store: CountingStore, ring: KeyRing, header: str | None
) -> None:
    """By its form or its checksum."""
    assert ring.find(header) is None
    assert store.reads == []


# Remembering


def test_a_warm_authorizer_reads_a_key_once_in_cache_seconds(store: CountingStore, ring: KeyRing, clock: Clock) -> None:
    """The time counts from the read, not from the last request."""
    key, secret = made(store)
    for _ in range(CACHE_SECONDS):
        assert ring.find(f"Bearer {secret}") == key
        clock.forward(timedelta(seconds=1))
    assert store.reads == [key.id]
    clock.forward(timedelta(seconds=1))
    assert ring.find(f"Bearer {secret}")
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


def test_a_secret_that_is_rotated_away_stops_after_cache_seconds(
    store: CountingStore, ring: KeyRing, clock: Clock
) -> None:
    """With no overlap; the new one is known at once."""
    key, first = made(store)
    assert ring.find(f"Bearer {first}")
    _, second = rotate_key(store, key.id, clock=clock, overlap_seconds=0)
    assert ring.find(f"Bearer {second}")
    clock.forward(timedelta(seconds=CACHE_SECONDS))
    assert ring.find(f"Bearer {first}")
    clock.forward(timedelta(microseconds=1))
    assert ring.find(f"Bearer {first}") is None
    assert ring.find(f"Bearer {second}")


def test_the_documentation_says_how_long_a_revoked_key_goes_on() -> None:
    """CACHE_SECONDS, and how old `last_used_at` may be."""
    text = (ROOT / "docs/security.md").read_text()
    assert re.search(rf"within {CACHE_SECONDS} seconds", text)
    assert re.search(r"at most once an hour", text)


def test_a_cold_authorizer_never_knows_a_deleted_key(store: CountingStore, clock: Clock) -> None:
    """What one instance remembers, another does not."""
    key, secret = made(store)
    store.delete_key(key.id)
    assert KeyRing(store, clock).find(f"Bearer {secret}") is None


@pytest.mark.parametrize("overlap", [None, timedelta(seconds=2)])
def test_what_ends_by_itself_ends_to_the_instant(
    store: CountingStore, ring: KeyRing, clock: Clock, overlap: timedelta | None
) -> None:
    """A key at its end and a secret at that of its overlap, also while a warm authorizer remembers them."""
    key, secret = made(store, expires_at=NOW + timedelta(days=1 if overlap else 0, seconds=2))
    if overlap:
        rotate_key(store, key.id, clock=clock, overlap_seconds=int(overlap.total_seconds()))
    clock.forward(timedelta(seconds=2, microseconds=-1))
    assert ring.find(f"Bearer {secret}")
    clock.forward(timedelta(microseconds=1))
    assert ring.find(f"Bearer {secret}") is None
    assert KeyRing(store, clock).find(f"Bearer {secret}") is None


def test_a_key_ends_though_its_rotation_would_let_the_secret_before_go_on(store: CountingStore, clock: Clock) -> None:
    """The earlier of both ends counts."""
    key, first = made(store, expires_at=NOW + timedelta(hours=1))
    _, second = rotate_key(store, key.id, clock=clock)
    clock.forward(timedelta(hours=1))
    assert [KeyRing(store, clock).find(f"Bearer {secret}") for secret in (first, second)] == [None, None]


def test_an_unknown_key_is_remembered_as_unknown_for_as_long(store: CountingStore, ring: KeyRing, clock: Clock) -> None:
    """Whoever hammers with one reads the table no oftener; a key written meanwhile is found after that time."""
    token = f"tg_0123456789abcdef_{OLD_SECRET}"
    for _ in range(10):
        assert ring.find(f"Bearer {token}") is None
    assert store.reads == ["0123456789abcdef"]
    assert old_form(store) == token
    assert ring.find(f"Bearer {token}") is None
    clock.forward(timedelta(seconds=CACHE_SECONDS, microseconds=1))
    assert ring.find(f"Bearer {token}")


def test_a_wrong_secret_does_not_shut_out_the_right_one(store: CountingStore, ring: KeyRing) -> None:
    """The key and the secret are remembered together."""
    right = old_form(store)
    assert ring.find(f"Bearer {right[:-1]}0") is None
    assert ring.find(f"Bearer {right}")


@pytest.mark.parametrize("are_owned", [True, False])
def test_what_is_remembered_is_bounded(
    store: CountingStore, ring: KeyRing, monkeypatch: pytest.MonkeyPatch, are_owned: bool
) -> None:
    """Neither keys nor made-up ones fill the memory: after enough of them the first is forgotten and read again."""
    monkeypatch.setattr(keyring, "_MAX_KNOWN", 10)
    tokens = [made(store)[1] if are_owned else stranger() for _ in range(11)]
    for token in (*tokens, tokens[0]):
        assert (ring.find(f"Bearer {token}") is not None) == are_owned
    assert store.reads.count(tokens[0].split("_")[1]) == 2


# Known and unknown ids take one path


def operations(ring: KeyRing, store: CountingStore, token: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What the authorizer does with a token."""
    done = {"hashes": 0, "comparisons": 0}

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            done[name] += 1
            return function(*arguments)

        return call

    before = len(store.reads), len(store.marks)
    with monkeypatch.context() as patch:
        patch.setattr(keyring, "hash_of", counted("hashes", hash_of))
        patch.setattr(hmac, "compare_digest", counted("comparisons", hmac.compare_digest))
        assert ring.find(f"Bearer {token}") is None
    return done | {"reads": len(store.reads) - before[0], "writes": len(store.marks) - before[1]}


def test_a_guess_at_a_known_id_costs_what_one_at_an_unknown_id_costs(
    store: CountingStore, ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first time and the second; while the key is in use, and while it has two secrets, too."""
    right = old_form(store)
    guesses = [f"{right[:-1]}{digit}" for digit in "0123"]
    nobody = [guess.replace("0123456789abcdef_", "fedcba9876543210_") for guess in guesses]
    read, remembered = ({"hashes": 1, "comparisons": 2 * reads, "reads": reads, "writes": 0} for reads in (1, 0))
    for round_, (guess, other) in enumerate(zip(guesses, nobody, strict=True)):
        if round_ >= 1:
            assert ring.find(f"Bearer {right}")  # the key is in use, and remembered
        if round_ == 2:
            rotate_key(store, "0123456789abcdef", clock=Clock())
        for token in (guess, other):
            assert operations(ring, store, token, monkeypatch) == read
            assert operations(ring, store, token, monkeypatch) == remembered


# Marking as used


def test_a_key_in_use_is_marked_once_an_hour(store: CountingStore, ring: KeyRing, clock: Clock) -> None:
    """However often it is used, and by however many authorizers."""
    key, secret = made(store)
    other = KeyRing(store, clock)
    for _ in range(180):
        assert ring.find(f"Bearer {secret}")
        assert other.find(f"Bearer {secret}")
        clock.forward(timedelta(minutes=1))
    assert store.marks == [key.id] * 3
    kept = store.key(key.id)
    assert kept is not None
    assert kept.last_used_at == NOW + timedelta(hours=2)


def test_only_who_has_the_secret_uses_a_key(store: CountingStore, clock: Clock) -> None:
    """Neither a guess nor a key that has ended leaves a mark."""
    right = old_form(store)
    KeyRing(store, clock).find(f"Bearer {right[:-1]}0")
    _, secret = made(store, expires_at=NOW + timedelta(seconds=1))
    clock.forward(timedelta(seconds=1))
    KeyRing(store, clock).find(f"Bearer {secret}")
    assert store.marks == []


def test_a_mark_that_fails_fails_no_request(clock: Clock) -> None:
    """It is tried again with the next read."""

    class Broken(CountingStore):
        """Cannot be written."""

        def mark_used(self, key_id: str, *, at: datetime, unless_after: datetime) -> None:  # noqa: ARG002
            self.marks.append(key_id)
            raise Unavailable("The database cannot be written now.")

    store = Broken()
    ring = KeyRing(store, clock)
    key, secret = made(store)
    for _ in range(2):
        assert ring.find(f"Bearer {secret}") == key
        clock.forward(timedelta(seconds=CACHE_SECONDS + 1))
    assert store.marks == [key.id, key.id]


def test_a_mark_that_hangs_holds_up_no_request(clock: Clock) -> None:
    """The answer does not wait for it longer than the authorizer's patience, here none."""
    answered = threading.Event()

    class Slow(CountingStore):
        """Writes when everyone has been answered."""

        waited: bool | None = None

        def mark_used(self, key_id: str, *, at: datetime, unless_after: datetime) -> None:
            self.waited = answered.wait(60)
            super().mark_used(key_id, at=at, unless_after=unless_after)

    store = Slow()
    key, secret = made(store)
    assert KeyRing(store, clock, patience_seconds=0).find(f"Bearer {secret}") == key
    assert store.waited is None
    answered.set()


# Holding rate limits


def limited(store: MemoryCatalog, limit: int, window_seconds: int) -> ApiKey:
    """A key with a rate limit."""
    return made(store, rate_limit=KeyLimit(limit, window_seconds))[0]


def test_a_key_makes_as_many_requests_in_a_window_as_its_limit_says(store: CountingStore, clock: Clock) -> None:
    """Over all authorizers together; the wait is until the next window."""
    key = limited(store, 5, 60)
    authorizers = [KeyLimits(store, clock) for _ in range(3)]
    clock.forward(timedelta(seconds=12, milliseconds=500))
    waits = [authorizer.wait(key) for _ in range(4) for authorizer in authorizers]
    assert waits == [0] * 5 + [48] * 7
    clock.forward(timedelta(seconds=48))
    assert [authorizer.wait(key) for _ in range(2) for authorizer in authorizers] == [0] * 5 + [60]


def test_authorizers_whose_clocks_differ_let_no_more_through(store: CountingStore, clock: Clock) -> None:
    """Who is late counts in the window that has begun."""
    key = limited(store, 3, 60)
    late = KeyLimits(store, Clock(clock.now - timedelta(seconds=1)))
    punctual = KeyLimits(store, clock)
    assert [punctual.wait(key), late.wait(key), punctual.wait(key)] == [0, 0, 0]
    assert late.wait(key) == 1
    assert punctual.wait(key) == 60


def test_a_request_costs_one_write_and_a_refused_one_none(store: CountingStore, clock: Clock) -> None:
    """But for the first refusal, and the first request that an authorizer sees in a window another has begun."""
    key = limited(store, 3, 60)
    first, second = KeyLimits(store, clock), KeyLimits(store, clock)
    for authorizer in (first, first, second, second, second, first, first, first):
        authorizer.wait(key)
    assert store.counts == ["open", "count", "open", "count", "count", "count"]


def test_a_key_without_a_limit_costs_nothing(store: CountingStore, clock: Clock) -> None:
    """Nor waits."""
    key, _ = made(store)
    assert [KeyLimits(store, clock).wait(key) for _ in range(3)] == [0, 0, 0]
    assert store.counts == []
