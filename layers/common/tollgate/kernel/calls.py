"""Calls of DynamoDB for a third of botocore's CPU: two of its client's steps are replaced, the rest stays.

The request is written without a walk along its shapes, and sent with headers that are made once instead of copied
from one class to the next; the answer is read likewise. The HTTP session with its connections and time-outs stays
botocore's, and so do the hooks, the credentials, the errors and, once an attempt has failed, the rules for another one.

What is replaced is private to botocore, and named in `make_lean` and `_Endpoint`; a test compares both ways.
"""

import contextlib
from binascii import a2b_base64
from http.client import responses
from itertools import count
from typing import Any, Final, cast
from zlib import crc32

import msgspec
from botocore.awsrequest import AWSPreparedRequest, HeadersDict
from botocore.exceptions import HTTPClientError

from tollgate.kernel.json import write_json
from tollgate.kernel.signing import SIGNATURE, signed

__all__ = ["make_lean"]

_OPERATIONS: Final = frozenset(
    {
        "BatchGetItem",
        "BatchWriteItem",
        "DeleteItem",
        "GetItem",
        "PutItem",
        "Query",
        "TransactGetItems",
        "TransactWriteItems",
        "UpdateItem",
    }
)
"""In whose answers the bytes of items are all that JSON does not know."""
_OK: Final = 200


def make_lean(client: Any) -> None:
    """Have a client of DynamoDB make its calls for less, all those that read and write items.

    An answer has no `ResponseMetadata` then.
    """
    convert = client._convert_to_request_dict  # noqa: SLF001
    make_request = client._endpoint.make_request  # noqa: SLF001
    lean = _Endpoint(client)

    def converted(api_params: dict[str, Any], operation_model: Any, **more: Any) -> dict[str, Any]:
        if operation_model.name in _OPERATIONS:
            return lean.request(operation_model.name, api_params, more["context"])
        return cast("dict[str, Any]", convert(api_params=api_params, operation_model=operation_model, **more))

    def made(operation_model: Any, request: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        made_by = lean.send if operation_model.name in _OPERATIONS else make_request
        return cast("tuple[Any, dict[str, Any]]", made_by(operation_model, request))

    client._convert_to_request_dict = converted  # noqa: SLF001
    client._endpoint.make_request = made  # noqa: SLF001
    # Or the rules for endpoints are gone through for each call, to arrive at this same one.
    client._ruleset_resolver = None  # noqa: SLF001
    client.meta.events.register("choose-signer.dynamodb", _signature)


def _signature(**_: Any) -> str:
    return SIGNATURE


class _Endpoint:
    """Sends requests of a client: over its own HTTP session, with its own hooks."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._emit = client.meta.events.emit
        self._url = f"{client.meta.endpoint_url.rstrip('/')}/"

    def request(self, operation: str, params: dict[str, Any], context: dict[str, Any]) -> dict[str, Any]:
        """A request as botocore's hooks know it."""
        headers = {
            "X-Amz-Target": f"DynamoDB_20120810.{operation}",
            "Content-Type": "application/x-amz-json-1.0",
            "User-Agent": self._client.meta.config.user_agent,
        }
        return {
            "method": "POST",
            "url_path": "/",
            "url": self._url,
            "query_string": "",
            "headers": headers,
            "body": write_json(params),  # bytes become base64, as DynamoDB wants them
            "context": context,
        }

    def send(self, model: Any, request: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Send a request as often as botocore's rules say: what came back at last, and what it says.

        Raises:
            BotoCoreError: there is no answer, or nothing to sign with.
        """
        for attempt in count(1):
            http, answer, error = self._attempt(model.name, request)
            if error is None and http.status_code == _OK and _is_whole(http):
                break
            received = None if error else (http, answer)
            if not self._client._endpoint._needs_retry(attempt, model, request, received, error):  # noqa: SLF001
                break
        if error is not None:
            raise error
        return http, answer

    def _attempt(self, operation: str, request: dict[str, Any]) -> tuple[Any, dict[str, Any], Exception | None]:
        """Send a request once: what came back, what it says, and why nothing came if nothing did."""
        body = request["body"]
        credentials = self._client._request_signer._credentials  # noqa: SLF001
        frozen = credentials.get_frozen_credentials() if credentials else None
        headers = signed(frozen, self._client.meta.region_name, self._url, request["headers"], body)
        headers["Content-Length"] = str(len(body))
        prepared = AWSPreparedRequest("POST", self._url, cast("Any", HeadersDict(headers)), body, stream_output=False)
        try:
            answers = self._emit(f"before-send.dynamodb.{operation}", request=prepared)
            http = next((answer for _, answer in answers if answer is not None), None)
            if http is None:
                http = self._client._endpoint.http_session.send(prepared)  # noqa: SLF001
            return http, _answer(http.status_code, http.content), None
        except Exception as error:  # noqa: BLE001  botocore's rules say which are worth another attempt
            return None, {}, error


def _is_whole(http: Any) -> bool:
    checksum = http.headers.get("x-amz-crc32")
    return checksum is None or int(checksum) == crc32(http.content)


def _answer(status: int, content: bytes) -> dict[str, Any]:
    """What an answer says, with bytes for base64; an error as botocore tells it.

    Raises:
        HTTPClientError: it is said to be a success, and cannot be read.
    """
    answer: Any = None
    with contextlib.suppress(msgspec.DecodeError):
        answer = msgspec.json.decode(content)
    if not isinstance(answer, dict):
        if status == _OK:
            raise HTTPClientError(error="an answer that is no JSON object")
        answer = {"message": responses.get(status, "")}  # of something between, not of DynamoDB
    if status != _OK:
        code = str(answer.get("__type", status)).rpartition("#")[2].partition(":")[0]
        answer["Error"] = {"Code": code, "Message": answer.get("message", answer.get("Message", ""))}
    if b'"B"' in content or b'"BS"' in content:
        _decode(answer)
    return cast("dict[str, Any]", answer)


def _decode(value: Any) -> None:
    """Put bytes where base64 stands: under B and BS, unless these are names of attributes, which hold dictionaries."""
    if isinstance(value, list):
        for each in value:
            _decode(each)
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name == "B" and isinstance(inner, str):
                value[name] = a2b_base64(inner)
            elif name == "BS" and isinstance(inner, list):
                value[name] = [a2b_base64(each) for each in inner]
            else:
                _decode(inner)
