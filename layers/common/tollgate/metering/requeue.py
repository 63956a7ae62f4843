"""The operation count_events: events of a message that did not count go back to the queue, to be counted.

It may be repeated: an event counts once. What fails again makes a record of its own. People may correct the `events`
of the arguments, each entry's `event` being what was sent, before they have it tried again.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from tollgate.kernel.errors import FieldError, InvalidInput

__all__ = ["CHANGEABLE", "COUNT_EVENTS", "requeue"]

COUNT_EVENTS: Final = "count_events"
CHANGEABLE: Final[Mapping[str, frozenset[str]]] = {COUNT_EVENTS: frozenset({"events"})}


def requeue(arguments: Mapping[str, Any], send: Callable[[str], object]) -> None:
    """Send the events of an error record to the queue, with the time at which they were first received.

    Raises:
        InvalidInput: the record has no events, since its message waits in the dead-letter queue; or they are not such.
    """
    if arguments.get("reason") != "not_counted":
        raise InvalidInput([FieldError("", "the message is in the dead-letter queue: `make redrive` sends it back")])
    entries = arguments.get("events")
    if not isinstance(entries, list) or not all(isinstance(one, dict) and one.get("event") for one in entries):
        raise InvalidInput([FieldError("/events", 'must be a list of {"event": ...}, each as it is to be counted')])
    send(json.dumps({"received_at": arguments["received_at"], "events": [one["event"] for one in entries]}))
