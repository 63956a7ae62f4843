"""What is held beside the checks that schemathesis has: it imports this file by SCHEMATHESIS_HOOKS."""

import os
import re
from pathlib import Path
from typing import Any

import schemathesis

from tests.fuzz.exceptions import REFUSED
from tests.fuzz.leaks import in_answer
from tests.fuzz.raw import is_of_no_route

_SECRETS = [secret for secret in os.environ.get("FUZZ_SECRETS", "").split(",") if secret]
_COUNT = Path(os.environ["FUZZ_COUNT"]) if "FUZZ_COUNT" in os.environ else None


@schemathesis.check
def nothing_is_shown(
    _: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """No secret, no stack trace, no word of what is inside; in the headers neither."""
    if _COUNT is not None:
        with _COUNT.open("a") as count:
            count.write(f"{response.status_code} {case.operation.label}\n")
    text = response.content.decode(errors="replace") + str(dict(response.headers))
    found = list(in_answer(str(case.method), case.operation.path, text, _SECRETS))
    assert not found, f"shown: {found}"


@schemathesis.check
def the_status_is_declared(
    _: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """By its number: `default` is for what comes before a route is reached, as where there is no such method."""
    if response.request.method == "OPTIONS":  # API Gateway answers it by itself
        return
    status = response.status_code
    if is_of_no_route(status, response.text):
        return
    assert str(status) in case.operation.responses.status_codes, f"{status} is not declared"


@schemathesis.check
def a_good_request_is_refused_for_a_stated_reason(
    _: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """Those in exceptions.py."""
    if response.status_code != 422 or case.meta is None or not case.meta.generation.mode.is_positive:
        return
    reasons = REFUSED.get(case.operation.label, ())
    for error in errors_of(response):
        assert any(
            re.fullmatch(pointer, error["pointer"]) and re.match(detail, error["detail"], re.DOTALL)
            for pointer, detail in reasons
        ), f"not a stated reason: {error}"


def errors_of(response: schemathesis.Response) -> list[dict[str, Any]]:
    """The faults that a problem document names."""
    errors: list[dict[str, Any]] = response.json()["errors"]
    return errors
