"""From the previous release to this one and back, in one stack, with its data: nothing is lost, twice or unreadable.

The last tests are those of the way back.
"""

import itertools
import json
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import httpx
import pytest

from tests.stack.test_flows import invoke
from tests.unit.fakes_webhooks import Receiver, receiver
from tollgate.kernel.webhooks import sign
from tools import LOCAL, ROOT
from tools.demo import client
from tools.deploy import build, deploy
from tools.local import Stack, local_stack

PREVIOUS = "c988f8f1363861809aafa1f1d3d398ec99033941"
"""The release 0.1.0, by its commit: a clone need not have its tag. Each release, once made, is named here."""

START = datetime.now(UTC).replace(microsecond=0) - timedelta(days=2, hours=12)
FIRST_DAY = START + timedelta(days=1, hours=1)
"""The previous release bills until here: the second day has begun by then, and this version closes it."""

PRICES: dict[str, dict[str, Any]] = {
    "flat": {"model": "flat", "unit_price": "0.05", "included": "1"},
    "tiered": {
        "model": "tiered",
        "tiers": [
            {"up_to": "2", "unit_price": "0.10", "flat_fee": "1"},
            {"up_to": None, "unit_price": "0.08", "flat_fee": "0"},
        ],
    },
    "volume": {
        "model": "volume",
        "tiers": [
            {"up_to": "2", "unit_price": "0.10", "flat_fee": "0"},
            {"up_to": None, "unit_price": "0.07", "flat_fee": "0"},
        ],
        "maximum_amount": "9",
    },
    "package": {"model": "package", "package_size": "2", "package_price": "1", "partial_package": "round_up"},
}
FEATURES = dict.fromkeys(PRICES, "usage") | {"tokens": "quota", "bursts": "rate", "export": "boolean"}
PLAN: dict[str, Any] = {
    "name": "All",
    "currency": "EUR",
    "base_price": "2.00",
    "grace_days": 5,
    "billing_period": {"interval": "day"},
    "features": [
        *({"feature": model, "price": price} for model, price in PRICES.items()),
        {"feature": "tokens", "quota": {"limit": "100", "overage": "block"}, "price": PRICES["flat"]},
        {"feature": "bursts", "rate": {"limit": "50", "window_seconds": 86400}},
        {"feature": "export"},
    ],
}
CUSTOMERS = ("ada", "bea")
"""Ada has money in her wallet, bea has none."""

BUSY = "cleo"
"""Counts and consumes while releases change."""

PACE_SECONDS = 0.02
"""So long a caller is silent after an answer, since the machine has a release to deploy."""

VOLATILE = {"instance", "generated_at"}
"""What each answer says anew."""


@dataclass
class Written:
    """What was written through the API of a release, to be asked for and sent again.

    Attributes:
        key: a key of its own with the scope usage:read.
        hook_secret: of the webhook.
        cursor: of the second page of customers.
        events: as they were sent; sent again, they are duplicates.
        consumed: customer, feature and body of what was consumed.
        reservation: one that is open.
    """

    key: str = ""
    hook_secret: str = ""
    cursor: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    consumed: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    reservation: str = ""


def git(*arguments: str) -> "subprocess.CompletedProcess[bytes]":
    """Run git in the repository."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)


@pytest.fixture(scope="module")
def previous() -> Path:
    """The sources of the previous release, out of the repository's history."""
    folder = LOCAL / "releases" / PREVIOUS[:12]
    if folder.exists():
        return folder
    if git("cat-file", "-e", PREVIOUS).returncode != 0:
        git("fetch", "--quiet", "--depth=1", "origin", PREVIOUS)  # a shallow clone
    draft = folder.with_suffix(f".{uuid4().hex}")
    draft.mkdir(parents=True)
    archive = draft / "sources.tar"
    taken = git("archive", f"--output={archive}", PREVIOUS, "template.yaml", "functions", "layers", "tools")
    assert taken.returncode == 0, f"the release {PREVIOUS[:12]} cannot be had of this clone: {taken.stderr.decode()}"
    with tarfile.open(archive) as members:
        members.extractall(draft, filter="data")
    archive.unlink()
    draft.rename(folder)
    return folder


@pytest.fixture(scope="module")
def hook() -> Iterator[Receiver]:
    """A webhook's receiver, which outlives the releases."""
    with receiver() as there:
        yield there


@pytest.fixture(scope="module")
def stack(previous: Path) -> Iterator[Stack]:
    """A stack of the previous release, with a key that it has made."""
    with local_stack(build_dir=LOCAL / "build" / "upgrade", source=previous) as running:
        yield running


@pytest.fixture(scope="module")
def api(stack: Stack) -> Iterator[httpx.Client]:
    """Speaks to whichever release there is, all the time with the key of the first."""
    with client(stack) as speaking:
        yield speaking


@pytest.fixture(scope="module")
def written(stack: Stack, api: httpx.Client, hook: Receiver) -> Written:
    """What the previous release was told, whose queues of events and of billing stand still at the end."""
    made = Written()
    for code, kind in FEATURES.items():
        api.put(f"/v1/features/{code}", json={"name": code, "type": kind}).raise_for_status()
    for name in ("All in all", "All"):  # two versions of a plan
        api.put("/v1/plans/all", json=PLAN | {"name": name}).raise_for_status()
    body = {"url": f"{hook.url}/hook", "events": ["usage.threshold_reached"]}
    made.hook_secret = api.put("/v1/webhooks/local", json=body).raise_for_status().json()["secret"]
    add(api, "ada")
    deposit(api, "ada", "d-1", "50.00")
    for customer in (*CUSTOMERS, BUSY):
        add(api, customer)
        subscribe(api, customer).raise_for_status()
    limits = {"quota": {"limit": "120", "overage": "block"}}
    api.put("/v1/customers/ada/overrides/tokens", json=limits).raise_for_status()
    thresholds = {"thresholds": [{"quantity": "10"}, {"quantity": "100"}]}
    api.put("/v1/customers/ada/alerts/tokens", json=thresholds).raise_for_status()
    for hours in (2, 26, 50):  # one for each day
        at = START + timedelta(hours=hours)
        made.events += [event(customer, code, at) for customer in CUSTOMERS for code in (*PRICES, "tokens")]
    send(api, made.events, "accepted")
    consume(api, made, "ada", "tokens", "7")
    consume(api, made, "ada", "bursts", "2")
    assert told(hook, made.hook_secret) == {"quantity": "10"}
    made.reservation = reserve(api, "20")
    key = {"name": "reader", "scopes": ["usage:read"]}
    made.key = api.post("/v1/api-keys", json=key).raise_for_status().json()["secret"]
    made.cursor = api.get("/v1/customers", params={"limit": 1}).raise_for_status().json()["next_cursor"]
    run = api.post("/v1/billing/run", json={"as_of": FIRST_DAY.isoformat()}).raise_for_status().json()
    assert run["status"] == "done"
    stand_still(stack, "EventsQueue", "BillingQueue")
    api.post("/v1/events", json=queued(), headers={"Prefer": "respond-async"}).raise_for_status()
    assert invoke(stack, "BillingFunction", {"source": "aws.scheduler"})["subscriptions"] == len(CUSTOMERS) + 1
    return made


@pytest.fixture(scope="module")
def before(written: Written, api: httpx.Client) -> dict[str, Any]:
    """What the previous release answers."""
    assert written.events
    return read_all(api)


# What is written, and how it is read


def add(api: httpx.Client, customer: str) -> None:
    """Add a customer."""
    api.put(f"/v1/customers/{customer}", json={"name": customer, "timezone": "Europe/Berlin"}).raise_for_status()


def subscribe(api: httpx.Client, customer: str) -> httpx.Response:
    """Put a customer on the plan; the same again answers the same."""
    body = {"id": f"sub-{customer}", "customer": customer, "plan": "all", "starts_at": START.isoformat()}
    return api.post("/v1/subscriptions", json=body)


def deposit(api: httpx.Client, customer: str, name: str, amount: str) -> Any:
    """Pay money in; the same again answers the same."""
    body = {"id": name, "type": "deposit", "amount": amount, "currency": "EUR"}
    return api.post(f"/v1/customers/{customer}/wallet/transactions", json=body).raise_for_status().json()


def event(customer: str, feature: str, at: datetime, quantity: str = "3") -> dict[str, str]:
    """An event with its time."""
    name = f"{feature}-{at:%d%H%M}-{quantity}"
    return {"id": name, "customer": customer, "feature": feature, "quantity": quantity, "time": at.isoformat()}


def queued() -> list[dict[str, str]]:
    """Events that wait in the queue while the release changes: 40 units."""
    return [event("ada", "flat", START + timedelta(hours=51, minutes=minute), "8") for minute in range(5)]


def send(api: httpx.Client, events: list[dict[str, Any]], outcome: str) -> None:
    """Send events, all of which have one outcome."""
    answer = api.post("/v1/events", json=events).raise_for_status().json()
    assert answer[outcome] == len(events), answer


def consume(api: httpx.Client, written: Written, customer: str, feature: str, quantity: str) -> None:
    """Consume some of a feature, and remember it."""
    body = {"id": uuid4().hex, "quantity": quantity, "time": datetime.now(UTC).isoformat()}
    answer = api.post(f"/v1/customers/{customer}/entitlements/{feature}/consume", json=body).raise_for_status().json()
    assert answer["status"] == "consumed", answer
    written.consumed.append((customer, feature, body))


def reserve(api: httpx.Client, quantity: str) -> str:
    """Hold some of ada's tokens for an hour."""
    name = uuid4().hex
    body = {"id": name, "customer": "ada", "feature": "tokens", "quantity": quantity, "expires_in_seconds": 3600}
    assert api.post("/v1/reservations", json=body).raise_for_status().json()["status"] == "reserved"
    return name


def told(hook: Receiver, secret: str) -> Any:
    """The threshold that the webhook is told of next, signed with its secret; waits for it a minute."""
    request = hook.received.get(timeout=60)
    at = datetime.fromtimestamp(int(request.headers["webhook-timestamp"]), UTC)
    assert request.headers["webhook-signature"] == sign(secret, request.headers["webhook-id"], at, request.body)
    return json.loads(request.body)["data"]["threshold"]


def used(api: httpx.Client, feature: str, customer: str = "ada") -> Decimal:
    """The usage of the present period."""
    answer = api.get(f"/v1/customers/{customer}/usage", params={"feature": feature}).raise_for_status().json()
    return Decimal(answer["quantity"])


def resend(api: httpx.Client, written: Written) -> None:
    """Send all again that was sent: it is known, and changes nothing."""
    was = totals(api)
    send(api, written.events, "duplicate")
    send(api, [each | {"quantity": "4"} for each in written.events], "conflict")
    for customer, feature, body in written.consumed:
        again = api.post(f"/v1/customers/{customer}/entitlements/{feature}/consume", json=body).raise_for_status()
        assert again.json()["status"] == "duplicate"
    entries = api.get("/v1/customers/ada/wallet/transactions").raise_for_status().json()["items"]
    assert deposit(api, "ada", "d-1", "50.00")["balance_after"] == entries[0]["balance_after"] == "50.00"
    assert subscribe(api, "ada").raise_for_status().json()["id"] == "sub-ada"
    assert api.put("/v1/plans/all", json=PLAN).raise_for_status().json()["version"] == 2
    assert totals(api) == was


def totals(api: httpx.Client) -> list[Any]:
    """What must not change when something is sent again."""
    paths = [
        *(f"/v1/customers/ada/usage?feature={feature}" for feature in (*PRICES, "tokens")),
        "/v1/customers/ada/entitlements",
        "/v1/customers/ada/wallet",
        "/v1/subscriptions/sub-ada/history",
    ]
    return [api.get(path).raise_for_status().json() for path in paths]


def invoices(api: httpx.Client, customer: str) -> list[dict[str, Any]]:
    """All of a customer, the oldest first."""
    items: list[dict[str, Any]] = api.get("/v1/invoices", params={"customer": customer}).json()["items"]
    return items[::-1]


def read_all(api: httpx.Client) -> dict[str, Any]:
    """Ask each GET route of the previous release for all there is: status and body by URL."""
    document = json.loads((LOCAL / "releases" / PREVIOUS[:12] / "functions/catalog/openapi.json").read_text())
    made = [invoice for customer in CUSTOMERS for invoice in invoices(api, customer)]
    names: Mapping[str, list[str]] = {
        "customer": [*CUSTOMERS],
        "feature": ["flat", "tokens", "bursts"],
        "code": ["flat", "tokens", "all"],
        "subscription": [f"sub-{customer}" for customer in CUSTOMERS],
        "invoice": [invoice["id"] for invoice in made],
        "payment": [payment["id"] for invoice in made for payment in invoice["payments"]],
        "error": [record["id"] for record in api.get("/v1/errors").raise_for_status().json()["items"]],
        "key": [key["id"] for key in api.get("/v1/api-keys").raise_for_status().json()["items"]],
        "webhook": ["local"],
        "run": ["none"],
        "id": [event("ada", "flat", START + timedelta(hours=2))["id"]],
    }
    assert all(names.values()), names
    optional = {"granularity": "hour", "from": START.isoformat(), "version": "1"}
    found = {}
    for path, methods in document["paths"].items():
        if "get" not in methods or path in {"/docs", "/v1/openapi.json"}:
            continue
        parameters = methods["get"].get("parameters", [])
        asked = [one["name"] for one in parameters if one["in"] == "path" or one.get("required")]
        known = {one["name"]: optional[one["name"]] for one in parameters if one["name"] in optional}
        for values in itertools.product(*(names[name] for name in asked)):
            url = path.format_map(dict(zip(asked, values, strict=True)))
            params = {name: value for name, value in zip(asked, values, strict=True) if f"{{{name}}}" not in path}
            answer = api.get(url, params=params | known)
            body: Any = answer.json() if "json" in answer.headers["content-type"] else answer.text
            if path.endswith("/upcoming"):
                del body["created_at"]  # it is made as it is asked for
            found[" ".join([url, *params.values()])] = (answer.status_code, body)
    return found


def differences(was: Any, is_now: Any, where: str = "") -> list[str]:
    """What an answer has lost or changed; new fields are welcome."""
    if isinstance(was, dict) and isinstance(is_now, dict):
        kept = was.keys() - VOLATILE
        return [each for key in kept for each in differences(was[key], is_now.get(key, "missing"), f"{where}/{key}")]
    if isinstance(was, list | tuple) and isinstance(is_now, list | tuple) and len(was) == len(is_now):
        pairs = enumerate(zip(was, is_now, strict=True))
        return [each for index, (a, b) in pairs for each in differences(a, b, f"{where}/{index}")]
    return [] if was == is_now else [f"{where}: was {was!r}, is {is_now!r}"]


def mapping(stack: Stack, queue: str) -> str:
    """The id of what reads a queue."""
    name = stack.resources[queue].rpartition("/")[2]
    found = boto3.client("lambda", **stack.aws).list_event_source_mappings()["EventSourceMappings"]
    [one] = [each for each in found if each["EventSourceArn"].endswith(f":{name}")]
    return str(one["UUID"])


def stand_still(stack: Stack, *queues: str) -> None:
    """Let messages wait in queues."""
    for queue in queues:
        boto3.client("lambda", **stack.aws).update_event_source_mapping(UUID=mapping(stack, queue), Enabled=False)


def go_on(stack: Stack, *queues: str) -> None:
    """Have the messages read that have waited."""
    for queue in queues:
        boto3.client("lambda", **stack.aws).update_event_source_mapping(UUID=mapping(stack, queue), Enabled=True)


def until(happened: Callable[[], bool]) -> None:
    """Ask until something has happened, for a minute at most."""
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline, "it has not happened"


@dataclass
class Traffic:
    """The ids of events and of consumptions that were answered, and how many answers were none."""

    events: list[str] = field(default_factory=list)
    consumed: list[str] = field(default_factory=list)
    resent: int = 0


@contextmanager
def traffic(stack: Stack) -> Iterator[Traffic]:
    """Count and consume all the time; what fails is sent again, as it was, until it is answered."""
    seen, done, name = Traffic(), threading.Event(), uuid4().hex

    def ask(path: str, body: dict[str, str], answered: list[str]) -> None:
        with client(stack) as api:
            while not done.wait(PACE_SECONDS):
                asked = body | {"id": f"{name}-{len(answered)}", "time": datetime.now(UTC).isoformat()}
                while not is_answered(api, path, asked):
                    seen.resent += 1
                answered.append(asked["id"])

    event = {"customer": BUSY, "feature": "volume"}
    asking = [
        threading.Thread(target=ask, args=("/v1/events", event, seen.events)),
        threading.Thread(target=ask, args=(f"/v1/customers/{BUSY}/entitlements/flat/consume", {}, seen.consumed)),
    ]
    for thread in asking:
        thread.start()
    try:
        yield seen
    finally:
        done.set()
        for thread in asking:
            thread.join()


def is_answered(api: httpx.Client, path: str, body: dict[str, str]) -> bool:
    """Whether a request was answered; a 5xx and a lost connection are no answers, anything else must be a yes."""
    try:
        answer = api.post(path, json=body)
    except httpx.TransportError:
        return False
    if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
        return False
    answer.raise_for_status()
    return True


def change_release(stack: Stack, api: httpx.Client, template: Path) -> None:
    """Deploy while callers count and consume: what was answered counts once, and nothing else does."""
    was = used(api, "volume", BUSY), used(api, "flat", BUSY)
    with traffic(stack) as seen:
        until(lambda: bool(seen.events and seen.consumed))
        deployment = deploy(stack.endpoint_url, template)
        so_far = len(seen.events), len(seen.consumed)
        until(lambda: len(seen.events) > so_far[0] and len(seen.consumed) > so_far[1])
    assert deployment.api_url == stack.api_url
    assert used(api, "volume", BUSY) - was[0] == len(seen.events)
    assert used(api, "flat", BUSY) - was[1] == len(seen.consumed)


# From the previous release to this one


@pytest.fixture(scope="module")
def upgraded(stack: Stack, api: httpx.Client, before: dict[str, Any]) -> dict[str, Any]:
    """What this version answers at first; what its queues hold waits still."""
    assert before
    change_release(stack, api, build(LOCAL / "build" / "test", ROOT / "template.yaml"))
    return read_all(api)


def test_what_the_previous_release_wrote_reads_the_same(before: dict[str, Any], upgraded: dict[str, Any]) -> None:
    """Each answer of each GET route; fields may have been added."""
    assert len(before) > 50
    assert differences(before, upgraded) == []


@pytest.mark.usefixtures("upgraded")
def test_what_is_sent_again_is_known(api: httpx.Client, written: Written) -> None:
    """Events, consumptions, a deposit, a subscription, a plan."""
    resend(api, written)


@pytest.mark.usefixtures("upgraded")
def test_counting_goes_on_where_it_was(api: httpx.Client, written: Written, hook: Receiver) -> None:
    """By events and by consumptions; the open reservation is committed; the threshold not yet told is told, once."""
    was = used(api, "tokens")
    assert was == 3 + 7
    consume(api, written, "ada", "tokens", "60")
    check = api.get("/v1/customers/ada/entitlements/tokens").raise_for_status().json()
    assert (check["limit"], check["used"], check["remaining"]) == ("120", str(was + 60), str(120 - was - 60 - 20))
    over = {"id": uuid4().hex, "quantity": str(120 - was - 60 - 20 + 1)}
    assert api.post("/v1/customers/ada/entitlements/tokens/consume", json=over).json()["status"] == "denied"
    answer = api.post(f"/v1/reservations/{written.reservation}/commit", json={"quantity": "15"}).raise_for_status()
    assert answer.json()["status"] == "committed"
    more = event("ada", "tokens", datetime.now(UTC), "15")
    written.events.append(more)
    send(api, [more], "accepted")
    assert used(api, "tokens") == was + 60 + 15 + 15
    assert told(hook, written.hook_secret) == {"quantity": "100"}
    assert hook.received.empty()


@pytest.mark.usefixtures("upgraded")
def test_an_old_key_and_an_old_cursor_work(api: httpx.Client, written: Written) -> None:
    """The key may what it might, and no more; the second page follows the first."""
    headers = {"authorization": f"Bearer {written.key}"}
    params = {"feature": "flat"}
    assert api.get("/v1/customers/ada/usage", params=params, headers=headers).status_code == httpx.codes.OK
    assert api.get("/v1/features", headers=headers).status_code == httpx.codes.FORBIDDEN
    page = api.get("/v1/customers", params={"limit": 1, "cursor": written.cursor}).raise_for_status().json()
    assert [one["id"] for one in page["items"]] == ["bea"]


@pytest.mark.usefixtures("upgraded")
def test_what_waited_in_queues_is_counted_and_billed(stack: Stack, api: httpx.Client, written: Written) -> None:
    """Messages of the previous release; the period that it began is closed, with what was used of it."""
    [*_, begun] = invoices(api, "ada")
    assert (len(invoices(api, "ada")), begun["status"]) == (2, "paid")
    was = used(api, "flat")
    go_on(stack, "EventsQueue", "BillingQueue")
    until(lambda: used(api, "flat") == was + 40)
    written.events += queued()
    until(lambda: len(invoices(api, "ada")) == 3 and len(invoices(api, "bea")) == 3)
    until(lambda: invoices(api, "ada")[-1]["status"] == "paid")
    [_, _, closed] = invoices(api, "ada")
    assert closed["period"]["start"] == begun["period"]["end"]
    # 2.00 and 3 each: (3 - 1) x 0.05, 1 + 2 x 0.10 + 0.08, 3 x 0.07, 2 packages, and the tokens as the first
    lines = {line.get("feature") or line["kind"]: line["amount"] for line in closed["lines"]}
    amounts = {"base": "2.00", "flat": "0.10", "tiered": "1.28", "volume": "0.21", "package": "2.00", "tokens": "0.10"}
    assert {name: lines[name] for name in amounts} == amounts
    assert closed["total"] == str(sum(map(Decimal, amounts.values())))


@pytest.mark.usefixtures("upgraded")
def test_the_retry_processor_takes_up_what_waited(stack: Stack, api: httpx.Client) -> None:
    """An invoice that bea had no money for: a sweep tries it in vain, and then her deposit pays it."""
    records = api.get("/v1/errors", params={"customer": "bea"}).raise_for_status().json()["items"]
    record = records[-1]  # the oldest
    assert (record["type"], record["operation"]) == ("insufficient_funds", "collect_invoice")
    boto3.client("dynamodb", **stack.aws).update_item(
        TableName=stack.resources["RecoveryTable"],
        Key={"pk": {"S": record["id"]}, "sk": {"S": "R"}},
        UpdateExpression="SET due_at = :past, next_retry_at = :past",
        ExpressionAttributeValues={":past": {"S": "2026-01-01T00:00:00.000000Z"}},
    )
    invoke(stack, "RetryProcessorFunction")
    tried = api.get(f"/v1/errors/{record['id']}").raise_for_status().json()
    assert [one["outcome"] for one in tried["tries"][len(record["tries"]) :]] == ["failed"]
    assert tried["status"] == "pending"
    deposit(api, "bea", "d-1", "100.00")
    until(lambda: api.get(f"/v1/errors/{record['id']}").raise_for_status().json()["status"] == "resolved")
    until(lambda: {one["status"] for one in invoices(api, "bea")} == {"paid"})


# And back


def test_the_previous_release_reads_what_this_one_wrote(
    stack: Stack, api: httpx.Client, written: Written, previous: Path, upgraded: dict[str, Any]
) -> None:
    """A deployment that is taken back: nothing is lost either, and all is known and counts on."""
    assert upgraded
    reservation = reserve(api, "5")
    made = api.post("/v1/api-keys", json={"name": "new", "scopes": ["usage:read"]}).raise_for_status().json()
    now, was = read_all(api), used(api, "tokens")
    change_release(stack, api, build(LOCAL / "build" / "upgrade", previous / "template.yaml"))
    assert differences(read_all(api), now) == []
    resend(api, written)
    api.post(f"/v1/reservations/{reservation}/commit", json={"quantity": "4"}).raise_for_status()
    assert used(api, "tokens") == was + 4
    headers = {"authorization": f"Bearer {made['secret']}"}
    assert api.get("/v1/customers/ada/usage", params={"feature": "flat"}, headers=headers).status_code == httpx.codes.OK
