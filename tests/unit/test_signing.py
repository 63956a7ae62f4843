"""Requests to DynamoDB are signed as botocore signs them."""

from datetime import UTC, datetime
from unittest import mock

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import NoCredentialsError

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
                with mock.patch("time.gmtime", return_value=at.timetuple()):
                    DynamoSigner(Credentials("AKIDEXAMPLE", secret), "dynamodb", region).add_auth(request)
                signatures.add(request.headers["Authorization"])
    assert len(signatures) == 8


def test_without_credentials_nothing_is_sent() -> None:
    """The error is botocore's own."""
    with pytest.raises(NoCredentialsError):
        DynamoSigner(None, "dynamodb", "eu-central-1").add_auth(request_to(URLS[0], b"{}"))
