"""The story of docs/examples.json, told anew: every operation succeeds once, and answers as the document says."""

import json

import httpx

from tests.fuzz.gateway import deployed
from tests.fuzz.raw import Answer, Request, faults_of
from tests.fuzz.story import label_of, operations, told
from tools.openapi import EXAMPLES, OPENAPI

ELSEWHERE = {
    "GET /docs": "is a page",
    "GET /v1/openapi.json": "is the document itself",
    "POST /v1/webhooks/stripe": "needs Stripe (tests/store/test_payment_routes.py)",
    "PUT /v1/customers/{customer}/wallet/top-up": "needs Stripe too",
}


def test_every_operation_answers_as_the_document_says() -> None:
    """Random requests seldom name an invoice that can be paid, or an error that can be resolved."""
    answers: list[httpx.Response] = []

    def keep(answer: httpx.Response) -> None:
        answer.read()
        answers.append(answer)

    with deployed() as running, httpx.Client(base_url=running.api_url, event_hooks={"response": [keep]}) as api:
        api.headers["Authorization"] = f"Bearer {running.api_key}"
        text = told(api)
    succeeded = set()
    for answer in answers:
        method, target = answer.request.method, answer.request.url.raw_path.decode()
        label = label_of(method, target)
        request = Request(label, method, target, (), answer.request.content)
        assert faults_of(request, Answer(answer.status_code, answer.headers, answer.content), [running.api_key]) == []
        succeeded |= {label} if answer.is_success else set()
    assert succeeded == {*operations(json.loads(OPENAPI.read_text()))} - ELSEWHERE.keys()
    assert json.loads(text).keys() == json.loads(EXAMPLES.read_text()).keys()
