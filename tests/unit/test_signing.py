"""Requests to DynamoDB are signed as botocore signs them, and go where botocore would send them."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from unittest import mock

import botocore.session
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSPreparedRequest, AWSRequest, AWSResponse, HTTPHeaders
from botocore.credentials import Credentials
from botocore.exceptions import NoCredentialsError

from tollgate.kernel.dynamodb import UsageTable, connect
from tollgate.kernel.signing import DynamoSigner

URLS = [
    "https://dynamodb.eu-central-1.amazonaws.com/",
    "https://dynamodb.eu-central-1.amazonaws.com:443/",
    "http://localhost:4566/",
]
BODIES = [b"{}", '{"TableName": "usage", "Key": {"pk": {"S": "ü"}}}'.encode(), b"x" * 100_000]


def request_to(url: str, body: bytes) -> AWSRequest:
    """A call that is to be signed."""
    headers = {"X-Amz-Target": "DynamoDB_20120810.GetItem", "Content-Type": "application/x-amz-json-1.0"}
    return AWSRequest("POST", url, headers, body)


@pytest.mark.parametrize("token", [None, "FwoGZXIvYXdzEBYaD"])
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("url", URLS)
def test_a_request_is_signed_as_botocore_signs_it(url: str, body: bytes, token: str | None) -> None:
    """The same headers with the same content, whatever the endpoint, the body and the kind of credentials."""
    credentials = Credentials("AKIDEXAMPLE", "secret/key+", token)
    ours, theirs = request_to(url, body), request_to(url, body)
    DynamoSigner(credentials, "dynamodb", "eu-central-1").add_auth(ours)
    at = datetime.strptime(ours.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    with mock.patch("botocore.auth.get_current_datetime", return_value=at):
        SigV4Auth(credentials, "dynamodb", "eu-central-1").add_auth(theirs)
    assert sorted(ours.headers.items()) == sorted(theirs.headers.items())


def test_each_key_day_and_region_has_its_own_signature() -> None:
    """A key that is kept is not used for others."""
    signatures = set()
    for secret in ("one", "two"):
        for region in ("eu-central-1", "us-east-1"):
            for at in (datetime(2026, 11, 23, tzinfo=UTC), datetime(2026, 11, 24, tzinfo=UTC)):
                request = request_to(URLS[0], b"{}")
                with mock.patch("tollgate.kernel.signing.datetime", now=lambda _, at=at: at):
                    DynamoSigner(Credentials("AKIDEXAMPLE", secret), "dynamodb", region).add_auth(request)
                signatures.add(request.headers["Authorization"])
    assert len(signatures) == 8


def test_without_credentials_nothing_is_sent() -> None:
    """The error is botocore's own."""
    with pytest.raises(NoCredentialsError):
        DynamoSigner(None, "dynamodb", "eu-central-1").add_auth(request_to(URLS[0], b"{}"))


def sent_by(client: Any) -> AWSPreparedRequest:
    """The request that a client makes of a call."""
    found: list[AWSPreparedRequest] = []

    def keep(request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        found.append(request)
        return AWSResponse(request.url, 200, HTTPHeaders(), Answer())

    client.meta.events.register_first("before-send.dynamodb", keep)
    try:
        client.get_item(TableName="usage", Key={"pk": {"S": "a"}, "sk": {"S": "b"}})
    finally:
        client.meta.events.unregister("before-send.dynamodb", keep)
    return found[0]


class Answer:
    """An empty one."""

    def stream(self, **_: Any) -> Iterator[bytes]:
        """Its bytes, as urllib3 gives them."""
        yield b"{}"


def test_the_client_of_the_stores_sends_what_botocores_own_sends_to_the_same_address() -> None:
    """But for the headers that say when, by whom and in which attempt."""
    ours = sent_by(connect(UsageTable).client)
    theirs = sent_by(
        botocore.session.get_session().create_client("dynamodb", connect(UsageTable).client.meta.region_name)
    )
    assert (ours.method, ours.url, ours.body) == (theirs.method, theirs.url, theirs.body)
    assert {name.lower() for name in ours.headers} == {name.lower() for name in theirs.headers}
    assert b"SignedHeaders=content-type;host;x-amz-date;x-amz-target" in ours.headers["Authorization"]
