"""What tollgate.api makes of any request: scopes before bodies, and every error a problem document."""

import base64
import json
from typing import Annotated, Any, Literal

import pytest
from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Header, Path, Query
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from tollgate.api.app import MAX_ANSWER_BYTES, MAX_BODY_BYTES, App, created, json_response, logger
from tollgate.api.auth import IAM_SCOPES
from tollgate.api.cursors import read_cursor, write_cursor
from tollgate.kernel.errors import Conflict, FieldError, InvalidInput, Unavailable
from tollgate.kernel.schema import Code, DecimalString

SECRET = b"secret of the deployment"
REQUEST_ID = "JKJaXmPLvHcESHA="
READER, WRITER, ADMIN = ("things:read",), ("things:write",), ("admin",)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Circle(_Strict):
    """One member of the union."""

    kind: Literal["circle"]
    radius: DecimalString


class Polygon(_Strict):
    """Another."""

    kind: Literal["polygon"]
    corners: list["Corner"] = Field(min_length=3)


class Corner(_Strict):
    """Something in a list in a union."""

    x: DecimalString
    y: DecimalString


class Thing(_Strict):
    """A body with all that a pointer may have to pass through."""

    name: Annotated[str, Field(min_length=1)]
    shape: Annotated[Circle | Polygon, Field(discriminator="kind")] | None = None
    parts: list["Thing"] = []
    labels: dict[str, Annotated[str, Field(max_length=5)]] = {}


def make_app(*, validate: bool = True, json_only: bool = True) -> App:
    """An App with a route of each kind."""
    app = App(validate=validate, json_only=json_only)

    @app.endpoint("GET", "/open", scope=None, summary="No key")
    def get_open() -> Response[str]:
        return json_response({"open": True})

    @app.endpoint("GET", "/v1/things", scope="things:read", summary="Read")
    def get_things() -> Response[str]:
        return json_response({"key": app.caller().key_id})

    @app.endpoint("GET", "/v1/many", scope="things:read", summary="A page of things")
    def get_many() -> Response[str]:
        query = app.current_event.query_string_parameters
        return json_response(query["of"] * int(query["limit"]))

    @app.endpoint("GET", "/v1/crash", scope="things:read", summary="A defect of ours")
    def crash() -> Response[str]:
        raise RuntimeError("password=hunter2")

    @app.endpoint("GET", "/v1/busy", scope="things:read", summary="An error with a header")
    def busy() -> Response[str]:
        raise Unavailable("Too much at once.", retry_after=7)

    @app.endpoint("GET", "/v1/database/<code>", scope="things:read", summary="An error of the database")
    def database(code: str) -> Response[str]:
        raise ClientError({"Error": {"Code": code, "Message": "hunter2"}}, "Query")

    if validate:
        add_typed_routes(app)
    else:

        @app.endpoint("POST", "/v1/things", scope="things:write", summary="Write by hand")
        def post_by_hand() -> Response[str]:
            return created({"body": app.body()})

    return app


def add_typed_routes(app: App) -> None:
    """Routes whose inputs Powertools reads through pydantic."""

    @app.endpoint("POST", "/v1/things", scope="things:write", summary="Write")
    def post_thing(body: Thing) -> Response[str]:
        return created({"name": body.name})

    @app.endpoint("POST", "/v1/things/begin", scope="things:write", summary="A body that may be left out")
    def begin(body: Thing | None = None) -> Response[str]:
        return json_response({"name": body.name if body else None})

    @app.endpoint("PUT", "/v1/things/<code>", scope="things:write", summary="Replace")
    def put_thing(code: Annotated[Code, Path()], body: Thing) -> Response[str]:
        if code == "taken":
            raise Conflict("The thing taken is another.")
        if code == "bad":
            raise InvalidInput([FieldError("/name", "is bad"), FieldError("", "is worse")])
        return json_response({"code": code, "name": body.name})

    @app.endpoint("GET", "/v1/things/<code>", scope="things:read", summary="Read one")
    def get_thing(
        code: Annotated[Code, Path()],
        limit: Annotated[int, Query(ge=1, le=100)] = 50,
        key: Annotated[str | None, Header(alias="idempotency-key", max_length=5)] = None,
    ) -> Response[str]:
        return json_response({"code": code, "limit": limit, "key": key})


typed, by_hand = make_app(), make_app(validate=False)


class Answer:
    """What came back."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.status: int = raw["statusCode"]
        self.headers: dict[str, str] = raw["headers"]
        self.text: str = raw["body"]
        self.body: Any = json.loads(raw["body"])


def ask(
    method: str,
    path: str,
    body: str | bytes | None = None,
    *,
    app: App = typed,
    scopes: tuple[str, ...] | None = (*READER, *WRITER),
    headers: dict[str, str] | None = None,
    query: dict[str, str] | None = None,
) -> Answer:
    """Send a request as API Gateway would (payload format 2.0); bytes go as base64, scopes None is no key."""
    binary = isinstance(body, bytes)
    known = {"key_id": "k1", "scopes": " ".join(scopes)} if scopes is not None else {}
    event = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"content-type": "application/json", **(headers or {})},
        "queryStringParameters": query or {},
        "requestContext": {
            "http": {"method": method, "path": path},
            "stage": "$default",
            "requestId": REQUEST_ID,
            "authorizer": {"lambda": known},
        },
        "body": base64.b64encode(body).decode() if isinstance(body, bytes) else body,
        "isBase64Encoded": binary,
    }
    return Answer(app.handle(event, LambdaContext()))


def problem_of(answer: Answer, status: int) -> dict[str, Any]:
    """The problem document of an answer, held to be one with all members."""
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    document: dict[str, Any] = answer.body
    members = {"type", "title", "status", "detail", "instance"}
    assert set(document) == (members | {"errors"} if status == 422 else members)
    assert document["status"] == status
    assert document["instance"] == REQUEST_ID
    assert document["type"].startswith("urn:tollgate:problem:")
    assert all(document[member] for member in members)
    return document


def pointers(body: Any) -> list[str]:
    """Where the body of a thing is at fault, in the order told."""
    return pointers_of(ask("POST", "/v1/things", json.dumps(body)))


def pointers_of(answer: Answer) -> list[str]:
    """The pointers of a 422."""
    document = problem_of(answer, 422)
    assert all(error["detail"] for error in document["errors"])
    return [error["pointer"] for error in document["errors"]]


# Who may ask


def test_a_route_with_no_scope_is_open_to_all() -> None:
    """And only because it says so."""
    assert ask("GET", "/open", scopes=None).body == {"open": True}


def test_a_request_with_no_known_key_is_unauthenticated() -> None:
    """The authorizer vouches for nobody; RFC 9110 wants to be told how to authenticate."""
    answer = ask("GET", "/v1/things", scopes=None)
    assert problem_of(answer, 401)["title"] == "Unauthenticated"
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_request_that_no_authorizer_saw_is_unauthenticated() -> None:
    """A deployment that lost its authorizer lets nobody in."""
    event = {
        "version": "2.0",
        "rawPath": "/v1/things",
        "headers": {},
        "requestContext": {"http": {"method": "GET", "path": "/v1/things"}, "stage": "$default"},
    }
    assert typed.handle(event, LambdaContext())["statusCode"] == 401


def vouched(authorizer: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What becomes of a request for the things whose context says so of its sender."""
    http = {"method": "GET", "path": "/v1/things"}
    context = {"http": http, "stage": "$default", "requestId": REQUEST_ID, "authorizer": authorizer}
    event = {"version": "2.0", "rawPath": "/v1/things", "headers": {}, "requestContext": context} | more
    answer: dict[str, Any] = typed.handle(event, LambdaContext())
    return answer


def test_a_caller_inside_aws_passes_with_the_scopes_of_services(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known by its ARN; never with admin, whatever routes are put before it."""
    iam = {"userArn": "arn:aws:sts::123456789012:assumed-role/shop/shop", "accountId": "123456789012"}
    answer = vouched({"iam": iam})
    assert answer["statusCode"] == 403
    monkeypatch.setattr("tollgate.api.auth.IAM_SCOPES", IAM_SCOPES | {"things:read"})
    assert json.loads(vouched({"iam": iam})["body"]) == {"key": iam["userArn"]}
    assert {"events:write", "usage:read", "entitlements:read", "entitlements:write"} == IAM_SCOPES


def test_nothing_that_is_sent_makes_a_caller_of_iam(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither headers, query nor body, nor what a Lambda authorizer says: API Gateway writes the context."""
    monkeypatch.setattr("tollgate.api.auth.IAM_SCOPES", IAM_SCOPES | {"things:read"})
    iam = {"userArn": "arn:aws:iam::123456789012:user/mallory"}
    fakes: list[dict[str, Any]] = [
        vouched({"lambda": {"iam": iam, "userArn": iam["userArn"]}}),
        vouched({"lambda": {}, "jwt": {"claims": {"iam": iam}}}),
        vouched({"iam": None}),
        vouched({"lambda": {}}, headers={"x-amzn-iam": json.dumps(iam), "authorization": "AWS4-HMAC-SHA256 x"}),
        vouched({"lambda": {}}, queryStringParameters={"iam": json.dumps(iam)}),
        vouched({"lambda": {}}, body=json.dumps({"requestContext": {"authorizer": {"iam": iam}}})),
        vouched({"lambda": {}}, iam=iam),
    ]
    assert [answer["statusCode"] for answer in fakes] == [401] * len(fakes)


def test_a_key_over_its_rate_limit_is_told_how_long_to_wait() -> None:
    """Before it is told what it may not do; headers as of draft-ietf-httpapi-ratelimit-headers-10."""
    held = {"limit": "100", "window_seconds": "60", "retry_after": "17"}
    answer = vouched({"lambda": {"key_id": "k1", "scopes": "things:write", **held}})
    problem = json.loads(answer["body"])
    assert (answer["statusCode"], problem["title"]) == (429, "Too many requests")
    assert problem["type"] == "urn:tollgate:problem:too-many-requests"
    assert {name: answer["headers"][name] for name in ("RateLimit-Policy", "RateLimit", "Retry-After")} == {
        "RateLimit-Policy": '"key";q=100;w=60',
        "RateLimit": '"key";r=0;t=17',
        "Retry-After": "17",
    }


@pytest.mark.parametrize("scopes", [WRITER, (), ("things",), ("things:read:all",), ("administrator",)])
def test_a_key_that_lacks_the_scope_is_forbidden_and_told_which(scopes: tuple[str, ...]) -> None:
    """A scope is held whole: neither its beginning nor more than it will do."""
    assert "things:read" in problem_of(ask("GET", "/v1/things", scopes=scopes), 403)["detail"]


@pytest.mark.parametrize("scopes", [READER, (*WRITER, *READER), ADMIN])
def test_a_key_with_the_scope_or_admin_may_pass(scopes: tuple[str, ...]) -> None:
    """The route sees whose key it is."""
    assert ask("GET", "/v1/things", scopes=scopes).body == {"key": "k1"}


@pytest.mark.parametrize("body", ['{"name": 1}', "{", None, "x" * (MAX_BODY_BYTES + 1)])
def test_who_may_not_ask_learns_nothing_of_the_body(body: str | None) -> None:
    """401 and 403 come before 400, 413 and 422."""
    assert ask("POST", "/v1/things", body, scopes=None).status == 401
    assert ask("POST", "/v1/things", body, scopes=READER).status == 403


# Errors


def test_a_path_that_does_not_exist_is_not_found() -> None:
    """With or without a key: there is nothing to guard."""
    assert "/v1/nothing" in problem_of(ask("GET", "/v1/nothing", scopes=None), 404)["detail"]


@pytest.mark.parametrize(("path", "allow"), [("/v1/things", "GET, POST"), ("/v1/things/a", "GET, PUT")])
def test_a_method_that_the_path_does_not_have_is_told_those_it_has(path: str, allow: str) -> None:
    """Of static and dynamic paths alike."""
    answer = ask("DELETE", path)
    problem_of(answer, 405)
    assert answer.headers["Allow"] == allow


@pytest.mark.parametrize("app", [typed, by_hand])
@pytest.mark.parametrize("encode", [str, str.encode])
def test_a_body_over_the_limit_is_refused(app: App, encode: Any) -> None:
    """The limit counts bytes as they were sent, before base64."""
    body = '{"name": "' + "é" * (MAX_BODY_BYTES // 2) + '"}'
    assert "1000012 bytes" in problem_of(ask("POST", "/v1/things", encode(body), app=app), 413)["detail"]


@pytest.mark.parametrize("encode", [str, str.encode])
def test_a_body_at_the_limit_is_read(encode: Any) -> None:
    """Base64 on the way makes it a third longer, and not too long."""
    body = '{"name": "' + "x" * (MAX_BODY_BYTES - 12) + '"}'
    assert ask("POST", "/v1/things", encode(body)).status == 201


@pytest.mark.parametrize("app", [typed, by_hand])
@pytest.mark.parametrize(("of", "size"), [("x", 1), ('"', 4), ("\\", 4)])
def test_a_page_that_no_function_can_answer_with_is_refused(app: App, of: str, size: int) -> None:
    """Lambda would make an error of ours of it: what it takes is JSON in JSON, each quote escaped and that again."""
    most = (MAX_ANSWER_BYTES - 4) // size
    assert ask("GET", "/v1/many", app=app, query={"limit": str(most), "of": of}).status == 200
    refused = ask("GET", "/v1/many", app=app, query={"limit": str(most + 1), "of": of})
    assert pointers_of(refused) == ["/limit"]


@pytest.mark.parametrize(
    "media_type",
    [
        *("text/plain", "application/xml", "application/jsonlines", "application/merge-patch+json"),
        *("application/x-www-form-urlencoded", "multipart/form-data", "multipart/form-data; boundary=x"),
    ],
)
def test_a_body_of_another_media_type_is_refused(media_type: str) -> None:
    """Forms too, which Powertools would read."""
    problem_of(ask("POST", "/v1/things", '{"name": "a"}', headers={"content-type": media_type}), 415)


@pytest.mark.parametrize(
    "media_type", ["application/json; charset=utf-8", " application/json ", "", "Application/JSON", ";"]
)
def test_json_is_read_however_its_media_type_is_spelt(media_type: str) -> None:
    """Parameters mean nothing, and with no type at all it is taken for JSON."""
    assert ask("POST", "/v1/things", '{"name": "a"}', headers={"content-type": media_type}).status == 201


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("{", "line 1"),
        ('{"name": "a", "name": "b"}', "stands twice"),
        ('{"name": ' + "[" * 33 + "]" * 33 + "}", "32 deep"),
        ("[" * 100_000, "32 deep"),
        ('{"name": NaN}', "NaN"),
        ('{"name": "\\ud800"}', "surrogate"),
        (b'{"name": "\xff"}', "byte 10"),
        ('{"name": "\ud800"}', "byte 10"),
        (b"\xef\xbb\xbf{}", "line 1"),
    ],
)
def test_a_body_that_cannot_be_read_is_a_bad_request_that_says_where(body: str | bytes, said: str) -> None:
    """Malformed, twice the same key, too deep, not UTF-8."""
    assert said in problem_of(ask("POST", "/v1/things", body), 400)["detail"]


def test_base64_that_is_none_is_a_bad_request() -> None:
    """Nothing of the request is guessed."""
    event = {
        "version": "2.0",
        "rawPath": "/v1/things",
        "headers": {},
        "requestContext": {
            "http": {"method": "POST", "path": "/v1/things"},
            "stage": "$default",
            "authorizer": {"lambda": {"key_id": "k1", "scopes": "admin"}},
        },
        "body": "not base64!",
        "isBase64Encoded": True,
    }
    assert typed.handle(event, LambdaContext())["statusCode"] == 400


@pytest.mark.parametrize("app", [typed, by_hand])
def test_an_error_of_ours_says_nothing_of_itself(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """No exception, no stack trace: the request id finds them in the logs."""
    answer = ask("GET", "/v1/crash", app=app)
    problem_of(answer, 500)
    for secret in ("hunter2", "RuntimeError", "Traceback", ".py"):
        assert secret not in answer.text + str(answer.headers)
    assert "unhandled error" in caplog.text
    assert logger.get_correlation_id() == REQUEST_ID


@pytest.mark.parametrize(
    ("code", "status"),
    [("ThrottlingException", 503), ("InternalServerError", 503), ("AccessDeniedException", 500)],
)
def test_a_database_that_is_busy_or_broken_is_asked_again_and_one_that_refuses_is_our_error(
    code: str, status: int
) -> None:
    """503 says that the same request may succeed."""
    answer = ask("GET", f"/v1/database/{code}")
    problem_of(answer, status)
    assert ("Retry-After" in answer.headers) == (status == 503)
    assert "hunter2" not in answer.text


def test_an_error_keeps_its_status_and_headers() -> None:
    """What a service raises is what the caller is told."""
    answer = ask("GET", "/v1/busy")
    assert problem_of(answer, 503)["detail"] == "Too much at once."
    assert answer.headers["Retry-After"] == "7"
    assert problem_of(ask("PUT", "/v1/things/taken", '{"name": "a"}'), 409)["detail"] == "The thing taken is another."


def test_the_faults_a_service_finds_are_told_as_those_of_the_schema() -> None:
    """An empty pointer is the whole body."""
    document = problem_of(ask("PUT", "/v1/things/bad", '{"name": "a"}'), 422)
    assert document["errors"] == [{"pointer": "/name", "detail": "is bad"}, {"pointer": "", "detail": "is worse"}]


# Pointers


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, ["/name"]),
        ({"name": ""}, ["/name"]),
        ({"name": 1}, ["/name"]),
        ({"name": "a", "colour": 1}, ["/colour"]),
        ({"name": "a", "a/b~c": 1}, ["/a~1b~0c"]),
        ([], [""]),
        ("text", [""]),
        (None, [""]),
        ({"name": "a", "labels": {"long": "longer"}}, ["/labels/long"]),
        ({"name": "a", "parts": {}}, ["/parts"]),
        ({"name": "a", "parts": [{"name": "b"}, {"parts": [{"name": 2}]}]}, ["/parts/1/name", "/parts/1/parts/0/name"]),
    ],
)
def test_a_pointer_leads_to_each_fault(body: Any, expected: list[str]) -> None:
    """A missing key is pointed at where it should stand; RFC 6901 escapes what stands in a key."""
    assert pointers(body) == expected


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ({"kind": "circle"}, ["/shape/radius"]),
        ({"kind": "circle", "radius": 0.5}, ["/shape/radius"]),
        ({"kind": "circle", "radius": "1", "corners": []}, ["/shape/corners"]),
        ({"kind": "circle", "radius": "1", "circle": 1}, ["/shape/circle"]),
        ({"kind": "polygon", "corners": []}, ["/shape/corners"]),
        (
            {"kind": "polygon", "corners": [{"x": "1", "y": "1"}, {"x": "1.", "y": "1"}, {"y": True}]},
            ["/shape/corners/1/x", "/shape/corners/2/x", "/shape/corners/2/y"],
        ),
        ({"kind": "star"}, ["/shape/kind"]),
        ({"radius": "1"}, ["/shape/kind"]),
        ("circle", ["/shape"]),
    ],
)
def test_the_tag_of_a_union_stands_in_no_pointer(shape: Any, expected: list[str]) -> None:
    """A client sees its own document in it, at the top and deep inside a list."""
    assert pointers({"name": "a", "shape": shape}) == expected
    nested = {"name": "a", "parts": [{"name": "b", "shape": shape}]}
    assert pointers(nested) == [f"/parts/0{pointer}" for pointer in expected]


def test_no_body_at_all_is_pointed_at_as_the_whole() -> None:
    """It is missing as a whole."""
    for body in (None, ""):
        document = problem_of(ask("POST", "/v1/things", body), 422)
        assert [error["pointer"] for error in document["errors"]] == [""]


@pytest.mark.parametrize(
    ("path", "query", "headers", "pointer"),
    [
        ("/v1/things/-", {}, {}, "/code"),
        ("/v1/things/a%20b", {}, {}, "/code"),
        ("/v1/things/a", {"limit": "0"}, {}, "/limit"),
        ("/v1/things/a", {"limit": "x"}, {}, "/limit"),
        ("/v1/things/a", {}, {"idempotency-key": "longer"}, "/idempotency-key"),
    ],
)
def test_a_parameter_is_pointed_at_by_its_name(
    path: str, query: dict[str, str], headers: dict[str, str], pointer: str
) -> None:
    """Of the path, the query and the headers."""
    document = problem_of(ask("GET", path, query=query, headers=headers), 422)
    assert [error["pointer"] for error in document["errors"]] == [pointer]


def test_a_bad_parameter_is_told_of_though_the_body_cannot_be_read() -> None:
    """Which a GET has no use for."""
    document = problem_of(ask("GET", "/v1/things/-", "["), 422)
    assert [error["pointer"] for error in document["errors"]] == ["/code"]


@pytest.mark.parametrize("body", ["[]", "[null]", "0", '"x"', "true"])
def test_a_body_that_may_be_left_out_is_an_object_all_the_same(body: str) -> None:
    """What is none is not taken for a body that was left out."""
    assert ask("POST", "/v1/things/begin").body == {"name": None}
    assert ask("POST", "/v1/things/begin", "null").body == {"name": None}
    assert ask("POST", "/v1/things/begin", '{"name": "a"}').body == {"name": "a"}
    assert pointers_of(ask("POST", "/v1/things/begin", body)) == [""]


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded"])
def test_a_hand_written_route_reads_json_too_unless_it_says_otherwise(media_type: str) -> None:
    """That of events has media types of its own."""
    headers = {"content-type": media_type}
    problem_of(ask("POST", "/v1/things", "{}", app=by_hand, headers=headers), 415)
    assert ask("POST", "/v1/things", "{}", app=make_app(validate=False, json_only=False), headers=headers).status == 201


def test_a_fault_is_told_in_our_words() -> None:
    """Pydantic's prefix for errors of a validator of ours says nothing to a client."""
    body = json.dumps({"name": "a", "shape": {"kind": "circle", "radius": 0.5}})
    (error,) = problem_of(ask("POST", "/v1/things", body), 422)["errors"]
    assert error["detail"].startswith("must be a decimal string")


# Bodies


def test_a_hand_written_route_reads_text_and_base64_alike() -> None:
    """API Gateway chooses which it sends."""
    for body in ("né", "né".encode()):
        assert ask("POST", "/v1/things", body, app=by_hand).body == {"body": "né"}


# Cursors

keys = st.text(min_size=1)


@given(keys, keys)
def test_a_cursor_leads_back_to_the_last_item_seen(listing: str, last: str) -> None:
    """It is opaque and fits a query string as it stands."""
    cursor = write_cursor(SECRET, listing, last)
    assert cursor is not None
    assert cursor.replace("-", "").replace("_", "").isalnum()
    assert read_cursor(SECRET, listing, cursor) == last


def test_a_list_that_has_ended_has_no_cursor() -> None:
    """And no cursor begins at the beginning."""
    assert write_cursor(SECRET, "plans", None) is None
    assert read_cursor(SECRET, "plans", None) is None
    assert read_cursor(SECRET, "plans", "") is None


@given(st.data())
def test_a_cursor_that_was_changed_in_any_way_is_refused(data: st.DataObject) -> None:
    """Whatever is replaced, put in or cut off, padding and stray bits included, and wherever."""
    cursor = write_cursor(SECRET, "plans", data.draw(st.sampled_from(["a", "ab", "abc", "pro"])))
    assert cursor is not None
    place = data.draw(st.integers(0, len(cursor)))
    cut = data.draw(st.integers(0, 2))
    new = data.draw(st.text("ABab01-_=+/!. \né", max_size=2))
    changed = cursor[:place] + new + cursor[place + cut :]
    if changed in {cursor, ""}:
        return
    with pytest.raises(InvalidInput):
        read_cursor(SECRET, "plans", changed)


@pytest.mark.parametrize(
    "cursor",
    [
        write_cursor(SECRET, "features", "a"),
        write_cursor(b"secret of another deployment", "plans", "a"),
        "a",
        "!",
        "é",
        "\ud800",
        base64.urlsafe_b64encode(b'["plans", "a"]').decode(),
        "A" * 1024,
    ],
)
def test_a_cursor_of_another_list_or_another_secret_is_refused(cursor: str) -> None:
    """With the name of the parameter, and no word on what was wrong with it."""
    with pytest.raises(InvalidInput) as refusal:
        read_cursor(SECRET, "plans", cursor)
    assert [error.pointer for error in refusal.value.errors] == ["/cursor"]


def test_a_route_that_names_no_scope_cannot_be_declared() -> None:
    """Nothing is open by being forgotten."""
    app = App(validate=False)
    with pytest.raises(TypeError, match="scope"):
        app.get("/v1/forgotten")
