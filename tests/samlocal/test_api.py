"""The API by `sam local start-api`, with the authorizer before the functions."""

import os

import httpx

from tests.readme import check_first_session, first_session
from tools.keys import mint_key
from tools.samlocal import SamLocal


def test_the_first_session_of_the_readme(sam: SamLocal, variables: dict[str, str]) -> None:
    """Without a key 401 as a problem document; with one all that it shows, from a feature to an invoice."""
    key = mint_key(os.environ["CATALOG_TABLE"])
    with sam.api(variables) as url:
        refused = httpx.get(f"{url}/v1/features", trust_env=False, timeout=60)
        assert (refused.status_code, refused.headers["content-type"]) == (401, "application/problem+json")
        wrong = {"authorization": f"Bearer {key[:-1]}{'0' if key[-1] != '0' else '1'}"}
        assert httpx.get(f"{url}/v1/features", headers=wrong, trust_env=False, timeout=60).status_code == 401
        check_first_session(first_session(url, key))
