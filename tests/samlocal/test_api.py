"""The API by `sam local start-api`, with the authorizer before the functions."""

import httpx

from tests.readme import check_first_session, first_session
from tollgate.catalog.key_store import DynamoKeys
from tollgate.catalog.keys import create_key
from tollgate.kernel.time import system_clock
from tools.samlocal import SamLocal


def test_the_first_session_of_the_readme(sam: SamLocal, variables: dict[str, str]) -> None:
    """Without a key 401, and with one all that it shows, from a feature to an invoice; elsewhere 404."""
    _, key = create_key(DynamoKeys(), name="first", scopes=("admin",), clock=system_clock)
    assert key is not None
    with sam.api(variables) as url:
        refused = httpx.get(f"{url}/v1/features", trust_env=False, timeout=60)
        assert (refused.status_code, refused.headers["content-type"]) == (401, "application/problem+json")
        wrong = {"authorization": f"Bearer {key[:-1]}{'0' if key[-1] != '0' else '1'}"}
        assert httpx.get(f"{url}/v1/features", headers=wrong, trust_env=False, timeout=60).status_code == 401
        nothing = httpx.get(f"{url}/nothing", trust_env=False, timeout=60)
        assert (nothing.status_code, nothing.headers["content-type"]) == (404, "application/problem+json")
        check_first_session(first_session(url, key))
