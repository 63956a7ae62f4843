"""The resolver factory: one App per function gives routing, scopes, limits and problem documents."""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, NoReturn, TypeVar

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response
from aws_lambda_powertools.event_handler.exceptions import NotFoundError
from aws_lambda_powertools.event_handler.openapi.exceptions import RequestValidationError
from aws_lambda_powertools.logging import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from tollgate.api.auth import SECURITY_SCHEME, Caller, caller_of, require
from tollgate.api.problems import internal_error, invalid_fields, problem
from tollgate.kernel.errors import (
    BadRequest,
    FieldError,
    InvalidInput,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    TollgateError,
    Unavailable,
    UnsupportedMediaType,
)
from tollgate.kernel.json import read_json

__all__ = ["MAX_ANSWER_BYTES", "MAX_BODY_BYTES", "App", "created", "json_response", "time_left"]

MAX_BODY_BYTES: Final = 1_000_000
MAX_ANSWER_BYTES: Final = 6_000_000
"""Of the 6 MiB that a function may answer with, headers included: as a string of JSON, its quotes escaped."""
_NEXT = Callable[[Any], Response[Any]]
_Route = TypeVar("_Route", bound=Callable[..., Any])

logger = Logger()


class App(APIGatewayHttpResolver):
    """Routes of one function.

    `validate` lets Powertools read typed parameters and bodies through pydantic: right for
    administrative functions; the hot ones read their few inputs themselves and never import it.
    Where `json_only` is False a route says itself what it reads, as that of events does.
    """

    def __init__(self, *, validate: bool, json_only: bool = True) -> None:
        super().__init__(json_body_deserializer=read_json)
        self.use([_authorize, _limit_body, _limit_answer, *([_require_json] if json_only else [])])
        if validate:
            # Here and not by enable_validation, which would run before the scopes are held.
            self.use([_validation()])
        self.exception_handler(TollgateError)(self._tell)
        self.exception_handler(NotFoundError)(self._tell_not_found)
        self.exception_handler(RequestValidationError)(self._tell_invalid)
        self.exception_handler(Exception)(self._tell_internal)

    def endpoint(
        self,
        method: str,
        path: str,
        *,
        scope: str | None,
        summary: str,
        refuses: Sequence[int] = (),
        openapi_extensions: Mapping[str, Any] | None = None,
        **documentation: Any,
    ) -> Callable[[_Route], _Route]:
        """Declare a route: `path` as `/v1/things/<id>`; `scope` None makes it open to all.

        `refuses` are the statuses of the problem documents that come of what it does, such as 404; those of a
        request that cannot be read are added where openapi.json is made.
        """
        extensions = {**(openapi_extensions or {}), "x-refuses": [*refuses]}
        security: list[dict[str, list[str]]] = [{SECURITY_SCHEME: [scope]}] if scope else []
        return super().route(
            path, method, security=security, summary=summary, openapi_extensions=extensions, **documentation
        )

    def route(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse a route that says nothing of its scope: get, post and so on of the event handler come here.

        Raises:
            TypeError: always.
        """
        raise TypeError("declare routes with App.endpoint, which names their scope")

    def handle(self, event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
        """The Lambda handler of an HTTP function."""
        logger.set_correlation_id(event.get("requestContext", {}).get("requestId"))
        return self.resolve(event, context)

    def caller(self) -> Caller:
        """The key behind the present request."""
        return caller_of(self.current_event.raw_event)

    def body(self) -> str:
        """The body as text; UTF-8 or nothing."""
        return _body_bytes(self.current_event.raw_event).decode()

    def unless_known(self, response: Response[str]) -> Response[str]:
        """The answer with an entity tag; or 304, if the caller says by `If-None-Match` that it has it already."""
        tag = f'"{hashlib.sha256(str(response.body).encode()).hexdigest()[:32]}"'
        if tag in str(self.current_event.headers.get("if-none-match") or ""):
            return Response(HTTPStatus.NOT_MODIFIED, body="", headers={"ETag": tag})
        response.headers["ETag"] = tag
        return response

    def _request_id(self) -> str:
        return str(self.current_event.raw_event.get("requestContext", {}).get("requestId", ""))

    def _tell(self, error: TollgateError) -> Response[str]:
        if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            logger.error("unavailable", exc_info=error)
        return problem(error, self._request_id())

    def _tell_not_found(self, _: NotFoundError) -> Response[str]:
        path, method = self.current_event.path, self.current_event.http_method
        # The routes that Powertools keeps have no public reader.
        routes = [*self._static_routes, *self._dynamic_routes]
        methods = {route.method for route in routes if route.rule.match(path)}
        if methods:
            return self._tell(MethodNotAllowed(f"{method} is not a method of {path}.", allow=sorted(methods)))
        return self._tell(NotFound(f"There is no {path}; see /docs."))

    def _tell_invalid(self, error: RequestValidationError) -> Response[str]:
        faults = list(error.errors())
        in_body = any(fault["loc"][0] == "body" for fault in faults)  # another's may come with a body that is no JSON
        return self._tell(invalid_fields(faults, self.current_event.json_body if in_body else None))

    def _tell_internal(self, error: Exception) -> Response[str]:
        if _passes(error):
            return self._tell(Unavailable("The database cannot be reached now; send the request again."))
        logger.error("unhandled error", exc_info=error)
        return internal_error(self._request_id())


def _passes(error: Exception) -> bool:
    """Whether an error is one of the database's that the same request may not meet again."""
    # Late, for a function that touches no data does not need it.
    from tollgate.kernel.dynamodb import Failure, failure_of

    try:
        return failure_of(error) is not Failure.FINAL
    except Exception:  # noqa: BLE001  whatever is none of the database's is raised again
        return False


def _authorize(app: App, next_middleware: _NEXT) -> Response[Any]:
    for requirement in app.context["_route"].security or ():
        caller = app.caller()
        for scope in requirement[SECURITY_SCHEME]:
            require(scope, caller)
    return next_middleware(app)


def _limit_body(app: App, next_middleware: _NEXT) -> Response[Any]:
    body = _body_bytes(app.current_event.raw_event)
    if len(body) > MAX_BODY_BYTES:
        raise PayloadTooLarge(f"The body has {len(body)} bytes; at most {MAX_BODY_BYTES} are read.")
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"The body is not UTF-8: byte {error.start} cannot be read.") from None
    return next_middleware(app)


def _limit_answer(app: App, next_middleware: _NEXT) -> Response[Any]:
    response = next_middleware(app)
    body = str(response.body or "")
    size = len(body) + body.count('"') + body.count("\\")
    if size > MAX_ANSWER_BYTES:  # of pages alone: no single thing is stored that is as large
        raise InvalidInput([FieldError("/limit", f"a page of more than {MAX_ANSWER_BYTES} bytes: ask for fewer items")])
    return response


def _require_json(app: App, next_middleware: _NEXT) -> Response[Any]:
    # Powertools would read forms too, which have no strict reading.
    media_type = str(app.current_event.headers.get("content-type") or "").partition(";")[0].strip().lower()
    if app.current_event.body and media_type not in {"", "application/json"}:
        raise UnsupportedMediaType("Send application/json.")
    return next_middleware(app)


def _validation() -> Any:
    from aws_lambda_powertools.event_handler.middlewares.openapi_validation import (  # pydantic
        OpenAPIRequestValidationMiddleware,
    )

    class Validation(OpenAPIRequestValidationMiddleware):
        """Reads a body as JSON, which _require_json has seen to.

        Powertools' own way to do it, which has no public name, knows media types in small letters only, and takes
        what is no object for no body at all.
        """

        def _get_body(self, app: Any) -> dict[str, Any]:
            body = app.current_event.json_body
            if not isinstance(body, dict | None):
                raise InvalidInput([FieldError("", "must be a JSON object")])
            return body  # type: ignore[return-value]  # None is no body

    return Validation()  # type: ignore[no-untyped-call]  # Powertools has no types here


def _body_bytes(event: Mapping[str, Any]) -> bytes:
    body = event.get("body") or ""
    if not event.get("isBase64Encoded"):
        return str(body).encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error:
        raise BadRequest("The body is not the base64 it is said to be.") from None


def json_response(body: Any, status: int = HTTPStatus.OK, headers: dict[str, str] | None = None) -> Response[str]:
    """A JSON answer."""
    return Response(
        int(status), "application/json", json.dumps(body, separators=(",", ":")), headers=dict(headers or {})
    )


def created(body: Any) -> Response[str]:
    """The answer to a POST that made something; a repeated request gets the same."""
    return json_response(body, HTTPStatus.CREATED)


def time_left(context: LambdaContext) -> Callable[[], float]:
    """The seconds until Lambda ends the function."""
    return lambda: context.get_remaining_time_in_millis() / 1000
