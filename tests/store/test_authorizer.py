"""A database that cannot be read is not a key that is not known."""

import importlib.util
import os
from types import ModuleType
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ReadTimeoutError

from tests.conftest import ROOT
from tollgate.api.auth import caller_of
from tollgate.kernel.errors import Unavailable
from tools.keys import mint_key

HEADER_NAMES = ("authorization", "Authorization")


def authorizer() -> ModuleType:
    """The function, loaded anew."""
    spec = importlib.util.spec_from_file_location("authorizer_app", ROOT / "functions/authorizer/app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.usefixtures("tables")
def test_a_key_that_cannot_be_read_is_answered_503_and_not_401(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller may send the request again with the same key."""

    def fail(*_: Any, **__: Any) -> None:
        raise ReadTimeoutError(endpoint_url="http://nowhere")

    monkeypatch.setattr(BaseClient, "_make_api_call", fail)
    answer = authorizer().handler({"headers": {"authorization": "Bearer tg_abc_def"}}, None)
    assert answer["isAuthorized"] is True
    with pytest.raises(Unavailable):
        caller_of({"requestContext": {"authorizer": {"lambda": answer["context"]}}})


@pytest.mark.usefixtures("tables")
def test_the_name_of_the_header_may_have_capitals() -> None:
    """API Gateway writes it in lower case; sam's local API does not."""
    key = mint_key(os.environ["CATALOG_TABLE"])
    answers = [authorizer().handler({"headers": {name: f"Bearer {key}"}}, None) for name in HEADER_NAMES]
    assert [answer["context"].get("scopes") for answer in answers] == ["admin", "admin"]
