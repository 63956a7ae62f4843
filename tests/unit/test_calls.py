"""The client of the stores says and understands what botocore's own does, and tries again when that would."""

import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace
from typing import Any, ClassVar, cast
from unittest import mock
from zlib import crc32

import botocore.session
import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse, HTTPHeaders
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError, ReadTimeoutError

from tollgate.kernel.calls import make_lean
from tollgate.kernel.dynamodb import BillingTable, UsageTable, connect

SESSION = botocore.session.get_session()
KEY = {"pk": {"S": "a"}, "sk": {"S": "ü"}}
BYTES = bytes(range(256))
TEXT = b64encode(BYTES).decode()
ITEM: dict[str, Any] = {
    **KEY,
    "b": {"B": TEXT},
    "set": {"BS": [TEXT, "", "AA=="]},
    "B": {"S": "an attribute that has the name of a type"},
    "BS": {"L": [{"B": TEXT}, {"M": {"B": {"B": TEXT}, "BS": {"BS": [TEXT]}}}, {"N": "38"}, {"NULL": True}]},
}
WRITTEN: dict[str, Any] = {**KEY, "b": {"B": BYTES}, "set": {"BS": [BYTES, b""]}, "map": {"M": {"n": {"N": "1.10"}}}}
REASONS = [
    {"Code": "None"},
    {"Code": "ConditionalCheckFailed", "Message": "The conditional request failed", "Item": ITEM},
]
CALLS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("get_item", {"TableName": "t", "Key": KEY, "ConsistentRead": True}, {"Item": ITEM}),
    ("get_item", {"TableName": "t", "Key": KEY}, {}),
    ("put_item", {"TableName": "t", "Item": WRITTEN}, {}),
    ("update_item", {"TableName": "t", "Key": KEY, "ReturnValues": "ALL_NEW"}, {"Attributes": ITEM}),
    ("delete_item", {"TableName": "t", "Key": KEY}, {"ConsumedCapacity": {"TableName": "t", "CapacityUnits": 1.5}}),
    ("query", {"TableName": "t", "Limit": 2}, {"Items": [ITEM, ITEM], "Count": 2, "LastEvaluatedKey": KEY}),
    ("batch_get_item", {"RequestItems": {"t": {"Keys": [KEY]}}}, {"Responses": {"t": [ITEM]}, "UnprocessedKeys": {}}),
    (
        "batch_write_item",
        {"RequestItems": {"t": [{"PutRequest": {"Item": WRITTEN}}]}},
        {"UnprocessedItems": {"t": [{"PutRequest": {"Item": ITEM}}]}},
    ),
    (
        "transact_get_items",
        {"TransactItems": [{"Get": {"TableName": "t", "Key": KEY}}]},
        {"Responses": [{"Item": ITEM}]},
    ),
    (
        "transact_write_items",
        {"TransactItems": [{"Put": {"TableName": "t", "Item": WRITTEN}}], "ClientRequestToken": "once"},
        {},
    ),
]


@dataclass
class Answer:
    """What comes back over HTTP; `raw` in place of JSON of the content."""

    content: dict[str, Any] = field(default_factory=dict)
    status: int = 200
    raw: bytes | None = None
    damaged: bool = False

    def response(self, url: str) -> AWSResponse:
        """As urllib3 would bring it."""
        body = json.dumps(self.content).encode() if self.raw is None else self.raw
        headers = HTTPHeaders()
        headers["Content-Type"] = "application/x-amz-json-1.0"
        headers["x-amz-crc32"] = str(crc32(body) + self.damaged)
        return AWSResponse(url, self.status, headers, SimpleNamespace(stream=lambda: iter([body])))


def refusal(code: str, status: int = 400, **more: Any) -> Answer:
    """An error of DynamoDB."""
    return Answer({"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "no", **more}, status)


class Wire:
    """A client whose requests are answered so, one after the other."""

    def __init__(self, answers: Sequence[Answer | Exception], *, lean: bool) -> None:
        config = Config(retries={"total_max_attempts": 2, "mode": "standard"}, user_agent="tollgate")
        self.client: Any = SESSION.create_client("dynamodb", "eu-central-1", config=config)
        if lean:
            make_lean(self.client)
        self.sent: list[AWSPreparedRequest] = []
        self._answers = iter(answers)
        self.client.meta.events.register_first("before-send.dynamodb", cast("Any", self._send))

    def _send(self, request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        self.sent.append(request)
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer.response(request.url)

    def bodies(self) -> list[Any]:
        """What was sent."""
        return [json.loads(body) for request in self.sent if isinstance(body := request.body, bytes)]

    def outcome(self, method: str, arguments: dict[str, Any]) -> Any:
        """What a call gives or raises, but for what is said about the answer itself."""
        with mock.patch("botocore.endpoint.time", SimpleNamespace(sleep=lambda _: None)):
            try:
                answer = getattr(self.client, method)(**arguments)
            except ClientError as error:
                told = {name: error.response.get(name) for name in ("Error", "Item", "CancellationReasons")}
                return type(error).__name__, str(error).replace(" (reached max retries: 1)", ""), told
            except BotoCoreError as error:
                return type(error).__name__, str(error)
        return {name: value for name, value in answer.items() if name != "ResponseMetadata"}


def both(method: str, arguments: dict[str, Any], *answers: Answer | Exception) -> tuple[Any, Wire]:
    """Make the same call both ways: what comes of it, and what was sent."""
    lean, plain = Wire(answers, lean=True), Wire(answers, lean=False)
    outcome = lean.outcome(method, arguments)
    assert outcome == plain.outcome(method, arguments)
    assert lean.bodies() == plain.bodies()
    return outcome, lean


@pytest.mark.parametrize(("method", "arguments", "content"), CALLS)
def test_requests_and_answers_are_those_of_botocore(
    method: str, arguments: dict[str, Any], content: dict[str, Any]
) -> None:
    """Bytes as bytes, whatever attributes are called."""
    _, wire = both(method, arguments, Answer(content))
    assert len(wire.sent) == 1


def test_a_request_goes_where_botocores_goes_with_the_same_headers() -> None:
    """But for the two that count its attempts."""
    wires = [Wire([Answer({})], lean=lean) for lean in (True, False)]
    for wire in wires:
        wire.outcome("get_item", {"TableName": "t", "Key": KEY})
    ours, theirs = (wire.sent[0] for wire in wires)
    attempts = {"amz-sdk-invocation-id", "amz-sdk-request"}
    assert (ours.method, ours.url) == (theirs.method, theirs.url)
    assert {name.lower() for name in ours.headers} == {name.lower() for name in theirs.headers} - attempts
    for name in ("X-Amz-Target", "Content-Type"):
        assert ours.headers[name].encode() == theirs.headers[name]


@pytest.mark.parametrize(
    "refused",
    [
        refusal("ConditionalCheckFailedException", Item=ITEM),
        refusal("ConditionalCheckFailedException"),
        refusal("TransactionCanceledException", CancellationReasons=REASONS),
        Answer({"__type": "com.amazon.coral.validate#ValidationException", "message": "no"}, 400),
        Answer({"__type": "ResourceNotFoundException", "Message": "no"}, 400),
        Answer({"__type": "AccessDeniedException:http://internal.amazon.com/coral/", "message": "no"}, 400),
    ],
)
def test_a_refusal_is_the_error_that_botocore_makes_of_it(refused: Answer) -> None:
    """With what it tells about the items, and no second attempt."""
    outcome, wire = both("transact_write_items", CALLS[-1][1], refused)
    assert outcome[2]["Error"]["Code"]
    assert len(wire.sent) == 1


FAILURES: list[Answer | Exception] = [
    refusal("ProvisionedThroughputExceededException"),
    refusal("ThrottlingException"),
    refusal("TransactionInProgressException"),
    refusal("InternalServerError", 500),
    Answer(status=503, raw=b"<html>busy</html>"),
    Answer({"Item": ITEM}, damaged=True),
    ConnectTimeoutError(endpoint_url="http://nowhere"),
    ReadTimeoutError(endpoint_url="http://nowhere"),
]


@pytest.mark.parametrize("failure", FAILURES)
def test_what_botocore_tries_again_is_tried_again(failure: Answer | Exception) -> None:
    """Once, and then it succeeds."""
    outcome, wire = both("get_item", CALLS[0][1], failure, Answer({"Item": {"pk": {"S": "a"}}}))
    assert outcome == {"Item": {"pk": {"S": "a"}}}
    assert len(wire.sent) == 2
    assert len({request.headers["X-Amz-Target"] for request in wire.sent}) == 1


@pytest.mark.parametrize("failure", [one for one in FAILURES if not (isinstance(one, Answer) and one.damaged)])
def test_what_fails_twice_is_told_as_botocore_tells_it(failure: Answer | Exception) -> None:
    """There is no third attempt."""
    _, wire = both("get_item", CALLS[0][1], failure, failure)
    assert len(wire.sent) == 2


def test_a_quota_limits_how_often_attempts_are_made_again() -> None:
    """Botocore's, which successes fill again."""
    throttled = refusal("ThrottlingException")
    wire = Wire([throttled] * 400, lean=True)
    for _ in range(150):
        wire.outcome("get_item", {"TableName": "t", "Key": KEY})
    spent = len(wire.sent)
    assert 150 < spent < 300
    filled = Wire([throttled] * spent + [Answer({})] * 50 + [throttled] * 150, lean=True)
    for _ in range(150 + 50):
        filled.outcome("get_item", {"TableName": "t", "Key": KEY})
    before = len(filled.sent)
    filled.outcome("get_item", {"TableName": "t", "Key": KEY})
    assert len(filled.sent) == before + 2


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff"])
def test_a_success_that_cannot_be_read_is_no_answer(raw: bytes) -> None:
    """Nobody knows what was done then, as when nothing comes back."""
    wire = Wire([Answer(raw=raw)] * 2, lean=True)
    assert wire.outcome("get_item", {"TableName": "t", "Key": KEY})[0] == "HTTPClientError"
    assert len(wire.sent) == 2


def test_other_operations_are_left_to_botocore() -> None:
    """Whose answers may hold times."""
    wire = Wire([Answer({"Table": {"TableName": "t", "CreationDateTime": 1.5e9}})], lean=True)
    assert wire.outcome("describe_table", {"TableName": "t"})["Table"]["CreationDateTime"].year == 2017


def test_the_tables_clients_are_lean() -> None:
    """The effect would be missed by no other test."""
    client: Any = connect(UsageTable).client
    answers = [Answer({"Item": {"pk": {"S": "a"}}})]
    with mock.patch.object(client._endpoint, "http_session", Session(answers)):  # noqa: SLF001  all that is below
        assert client.get_item(TableName="t", Key=KEY) == {"Item": {"pk": {"S": "a"}}}


class Session:
    """Stands in for sockets."""

    def __init__(self, answers: list[Answer]) -> None:
        self._answers = answers

    def send(self, request: AWSPreparedRequest) -> AWSResponse:
        """Answer a request."""
        return self._answers.pop(0).response(request.url)


class Server(BaseHTTPRequestHandler):
    """DynamoDB that has one item."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[list[tuple[str, str, bytes]]] = []

    def do_POST(self) -> None:
        """Keep the request, and answer it."""
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append((self.path, self.headers["X-Amz-Target"], sent))
        body = json.dumps({"Item": ITEM}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("x-amz-crc32", str(crc32(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_calls_go_over_sockets() -> None:
    """Several over one connection."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        config = Config(user_agent="tollgate")
        client: Any = SESSION.create_client("dynamodb", "eu-central-1", endpoint_url=url, config=config)
        make_lean(client)
        answers = [client.get_item(TableName="t", Key=KEY) for _ in range(3)]
        client.close()
        server.shutdown()
        thread.join()
    assert [answer["Item"]["b"]["B"] for answer in answers] == [BYTES] * 3
    assert (
        Server.seen
        == [
            (
                "/",
                "DynamoDB_20120810.GetItem",
                json.dumps({"TableName": "t", "Key": KEY}, ensure_ascii=False, separators=(",", ":")).encode(),
            )
        ]
        * 3
    )


def test_the_models_of_a_table_share_its_client_whichever_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each client takes 50 ms or more of a cold start, and 10 MB."""

    class Item(BillingTable, discriminator="only in this test"):
        """Comes first."""

    monkeypatch.setattr(BillingTable, "_connection", None)
    connection = connect(Item)
    assert Item._get_connection().connection is connection  # noqa: SLF001  what its calls go through
    assert BillingTable._get_connection().connection is connection  # noqa: SLF001
