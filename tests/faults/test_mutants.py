"""The product broken on purpose, one way at a time: the random runs must notice, or they prove nothing."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.faults import test_counter_faults as scripted
from tests.faults.test_random_faults import Run
from tools.engine import Call, Engine, Refused

MOST_SEEDS = 120
PLACEHOLDER = re.compile(r"[#:]\w+")
Mutant = Callable[[Call, Engine], None]


def trim(action: dict[str, Any]) -> None:
    """Take out the placeholders that no expression names any more."""
    text = " ".join(str(action.get(name, "")) for name in ("ConditionExpression", "UpdateExpression"))
    used = set(PLACEHOLDER.findall(text))
    for name in ("ExpressionAttributeValues", "ExpressionAttributeNames"):
        kept = {key: value for key, value in action.pop(name, {}).items() if key in used}
        if kept:
            action[name] = kept


def heads(call: Call) -> list[dict[str, Any]]:
    """The writes of a head in a call."""
    if call.operation in {"UpdateItem", "PutItem"}:
        actions = [call.request]
    elif call.operation == "TransactWriteItems":
        actions = [action for entry in call.request["TransactItems"] for action in entry.values()]
    else:
        actions = []
    return [one for one in actions if (one.get("Key") or one["Item"])["pk"]["S"].startswith("HEAD#")]


def unconditional(call: Call, _: Engine) -> None:
    """The head is written whatever it is by then."""
    if call.operation in {"UpdateItem", "PutItem"}:
        drop_conditions(call)


def unconditional_in_transactions(call: Call, _: Engine) -> None:
    """The same, but only where other items go with it."""
    if call.operation == "TransactWriteItems":
        drop_conditions(call)


def drop_conditions(call: Call) -> None:
    """No condition on the head."""
    for head in heads(call):
        if head.pop("ConditionExpression", None):
            head.pop("ReturnValuesOnConditionCheckFailure", None)
            trim(head)


def without_ids_in_the_condition(call: Call, _: Engine) -> None:
    """Sums and ids are added though another has added the same ids."""
    for head in heads(call):
        if "UpdateExpression" in head:
            kept = [part for part in head["ConditionExpression"].split(" AND ") if "contains" not in part]
            head["ConditionExpression"] = " AND ".join(kept)
            trim(head)


def without_the_ids(call: Call, _: Engine) -> None:
    """What is counted is not remembered."""
    for head in heads(call):
        if "UpdateExpression" in head:
            head["UpdateExpression"] = head["UpdateExpression"].replace(", i :ids, j :digests", "")
            trim(head)


def without_a_new_structure(call: Call, _: Engine) -> None:
    """Who knows the head does not notice that its pages or periods have changed."""
    for head in heads(call):
        if "UpdateExpression" in head:
            head["UpdateExpression"] = head["UpdateExpression"].replace("s = :next", "s = :structure")
            trim(head)


def count_first(call: Call, database: Engine) -> None:
    """The head is written first, and what goes with it in a write of its own."""
    if call.operation == "TransactWriteItems":
        first, *others = call.request["TransactItems"]
        apart(database, [first], call)
        call.request["TransactItems"] = others


def claim_first(call: Call, database: Engine) -> None:
    """The ids are written first, and the head in a write of its own."""
    if call.operation == "TransactWriteItems":
        first, *others = call.request["TransactItems"]
        apart(database, others, call)
        call.request["TransactItems"] = [first]


def apart(database: Engine, actions: list[dict[str, Any]], call: Call) -> None:
    """Write some actions of a transaction at once; if they are refused, so is the call."""
    answer, failed = database.ask("TransactWriteItems", {"TransactItems": actions})
    if failed:
        reasons = [reason["Code"] for reason in answer["CancellationReasons"]]
        assert set(reasons) <= {"None", "ConditionalCheckFailed"}, answer
        raise Refused("TransactionCanceledException", reasons)
    call.request.pop("ClientRequestToken", None)


def in_progress_marker(call: Call, database: Engine) -> None:
    """The usual write first marks its ids, and then counts them: who finds the mark thinks that all was done."""
    marks = in_two(call, "ADD i :ids, j :digests")
    if marks is not None and not database.ask("UpdateItem", marks)[1]:
        forget_the_ids(call)


def write_first(call: Call, database: Engine) -> None:
    """The usual write first counts, and then notes its ids."""
    marks = in_two(call, "ADD i :ids, j :digests")
    if marks is not None:
        sums = dict(call.request)
        sums["UpdateExpression"] = sums["UpdateExpression"].replace(", i :ids, j :digests", "")
        trim(sums)
        if not database.ask("UpdateItem", sums)[1]:
            call.request.clear()
            call.request.update(marks | {"ReturnValues": "ALL_NEW"})
            call.request.pop("ConditionExpression")
            trim(call.request)


def in_two(call: Call, marks: str) -> dict[str, Any] | None:
    """Of the usual write, the part that only marks its ids; None where it is another call."""
    if call.operation != "UpdateItem" or ":ids" not in call.request["ExpressionAttributeValues"]:
        return None
    part = dict(call.request) | {"UpdateExpression": marks}
    part.pop("ReturnValues", None)
    trim(part)
    return part


def forget_the_ids(call: Call) -> None:
    """Have a write only count."""
    call.request["UpdateExpression"] = call.request["UpdateExpression"].replace(", i :ids, j :digests", "")
    call.request.pop("ConditionExpression")
    call.request.pop("ReturnValuesOnConditionCheckFailure", None)
    trim(call.request)


def without_the_condition_of_markers(call: Call, _: Engine) -> None:
    """An id that is known alone is claimed though another has claimed it."""
    if call.operation == "TransactWriteItems":
        for entry in call.request["TransactItems"]:
            put = entry.get("Put", {})
            if put and put["Item"]["pk"]["S"].startswith("EVENT#"):
                put.pop("ConditionExpression", None)
                trim(put)


def a_lost_answer_is_a_new_event(call: Call, database: Engine) -> None:
    """The write is made twice, as by a retry with nothing to recognise it by."""
    if call.operation == "UpdateItem" and call.number % 5 == 0:
        again = dict(call.request)
        again["UpdateExpression"] = re.sub(r", i :ids, j :digests", "", again["UpdateExpression"])
        again.pop("ConditionExpression", None)
        again.pop("ReturnValuesOnConditionCheckFailure", None)
        trim(again)
        database.ask("UpdateItem", again)


def without_the_archive(call: Call, _: Engine) -> None:
    """What is counted cannot be read back."""
    if call.operation == "PutItem" and call.request["Item"]["pk"]["S"].startswith("ARCHIVE#"):
        call.request["Item"]["pk"] = {"S": "ARCHIVE#nobody"}


def random_runs(database: Engine) -> None:
    """Seeds, until one notices."""
    for seed in range(1, MOST_SEEDS + 1):
        Run(seed, database).play()


def races(database: Engine) -> None:
    """Each request of the script, overtaken by itself at each call."""
    scripted.test_the_same_request_at_once_counts_once(database, scripted.small_requests, 1)


@pytest.mark.parametrize(
    ("mutant", "scenario"),
    [
        (unconditional, random_runs),
        (unconditional_in_transactions, random_runs),
        (without_ids_in_the_condition, random_runs),
        (without_the_ids, random_runs),
        (without_a_new_structure, random_runs),
        (count_first, random_runs),
        (claim_first, random_runs),
        (a_lost_answer_is_a_new_event, random_runs),
        (in_progress_marker, random_runs),
        (write_first, random_runs),
        (without_the_archive, random_runs),
        (unconditional, races),
        (without_ids_in_the_condition, races),
        (without_the_condition_of_markers, races),
    ],
)
def test_a_broken_counter_is_found(database: Engine, mutant: Mutant, scenario: Callable[[Engine], None]) -> None:
    """By a total, an id or an answer that is wrong; not because the database refuses the request."""

    def refuse_nonsense(call: Call) -> None:
        if call.failed and "ValidationException" in call.answer["__type"]:
            raise KeyboardInterrupt(call.answer["message"])  # the mutant is wrong, not the product

    with database.hooked(lambda call: mutant(call, database), refuse_nonsense), pytest.raises(AssertionError):
        scenario(database)
