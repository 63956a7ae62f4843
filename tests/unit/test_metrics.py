"""Counts as lines of the log."""

import json
import time

import pytest

from tollgate.kernel.metrics import count


def test_counts_are_one_line_in_the_embedded_metric_format(capsys: pytest.CaptureFixture[str]) -> None:
    """As the specification has it: each metric named in the directive stands beside it, and so does each dimension."""
    before = time.time_ns() // 1_000_000
    count(EventsAccepted=3, EventsRejected=0, EventsDuplicate=1)
    [line] = capsys.readouterr().out.splitlines()
    body = json.loads(line)
    header = body.pop("_aws")
    assert before <= header["Timestamp"] <= time.time_ns() // 1_000_000
    [directive] = header["CloudWatchMetrics"]
    assert (directive["Namespace"], directive["Dimensions"]) == ("Tollgate", [["Stage"]])
    metrics = [{"Name": name, "Unit": "Count"} for name in ("EventsAccepted", "EventsDuplicate")]
    assert directive["Metrics"] == metrics
    assert body == {"Stage": "test", "EventsAccepted": 3, "EventsDuplicate": 1}


def test_zeros_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """A line that is not written costs nothing."""
    count(EventsAccepted=0)
    assert capsys.readouterr().out == ""
