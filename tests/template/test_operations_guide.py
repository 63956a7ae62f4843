"""docs/operations.md names what there is: nothing else, and of what one must know nothing less."""

import re
from pathlib import Path
from typing import Any

import pytest

from bench import cost
from tests.conftest import ROOT, template

GUIDE = ROOT / "docs/operations.md"
NAMED = re.compile(r"`([A-Z][A-Za-z]+(?:Alarm|Queue|Table|Bus|Topic|Logs|Role|Rule|Function))`")


def section(title: str) -> str:
    """A part of the guide."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def first_column(title: str) -> list[str]:
    """What stands in code in the first column of the tables of a part."""
    rows = re.findall(r"^\| (`[^|]+`[^|]*) \|", section(title), re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def of_type(kind: str) -> set[str]:
    """The resources of a type."""
    return {name for name, resource in template()["Resources"].items() if resource["Type"] == kind}


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_alarm_has_its_line_and_no_other_has_one() -> None:
    """Who is called at night finds it."""
    assert sorted(first_column("Alarms")) == sorted(of_type("AWS::CloudWatch::Alarm"))


def test_every_dead_letter_queue_has_its_line_and_no_other_has_one() -> None:
    """And each has an alarm."""
    queues = {name for name in of_type("AWS::SQS::Queue") if name.endswith("DeadLetterQueue")}
    assert sorted(first_column("Dead letters")) == sorted(queues)
    assert {f"{name}Alarm" for name in queues} <= of_type("AWS::CloudWatch::Alarm")


def test_every_parameter_has_its_line_and_no_other_has_one() -> None:
    """With when it is set."""
    assert sorted(first_column("Deploy")) == sorted(template()["Parameters"])


def test_all_tables_are_restored() -> None:
    """Those that the tool knows are those that there are."""
    from tools.restore import TABLES

    assert set(TABLES) == of_type("AWS::DynamoDB::Table")


def test_whatever_the_guide_names_is_there() -> None:
    """Resources, outputs and commands."""
    text = GUIDE.read_text()
    known = {*template()["Resources"], *template()["Parameters"], *template()["Outputs"]}
    assert set(NAMED.findall(text)) <= known
    assert set(re.findall(r"outputs? `(\w+)`", text)) <= set(template()["Outputs"])
    assert set(re.findall(r"<(\w+Name)>", text)) <= set(template()["Outputs"])
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = set(re.findall(r"\bmake ([a-z-]+)(?= ARGS|`|\s+#|\n| &&| sends)", text))
    assert len(commands) > 5
    assert commands <= targets
    modules = set(re.findall(r"python -m (tools\.\w+)", text))
    assert all((ROOT / f"{module.replace('.', '/')}.py").exists() for module in modules)


def test_its_list_of_what_stops_is_whole(translated: dict[str, Any]) -> None:
    """DescribeStackResources answers with the first 100, and there are more; ListStackResources has pages."""
    assert len(translated["Resources"]) > 100
    assert "describe-stack-resources" not in GUIDE.read_text()
    assert "cloudformation list-stack-resources" in section("Backup and restore")


def test_its_links_lead_somewhere() -> None:
    """Files of the repository, and the headings in them."""
    for target in re.findall(r"\]\(([^)]+)\)", GUIDE.read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        page = (GUIDE.parent / path).resolve() if path else GUIDE
        assert page.exists(), target
        assert not anchor or anchor in anchors(page), target


def test_its_limits_are_those_of_the_template() -> None:
    """Batches, functions at once, and times."""
    resources = template()["Resources"]
    usage, billing, alerts = (resources[f"{name}Function"]["Properties"] for name in ("Usage", "Billing", "Alerts"))
    text = section("Limits")
    assert usage["Events"]["Queue"]["Properties"]["BatchSize"] == 5
    assert "| 5 to a batch," in text
    assert {
        one["Events"]["Queue"]["Properties"]["ScalingConfig"]["MaximumConcurrency"] for one in (billing, alerts)
    } == {10}
    assert "| 10 each (`MaximumConcurrency`)" in text
    assert {usage["Timeout"], resources["EntitlementsFunction"]["Properties"]["Timeout"]} == {29}
    assert "29 s of the functions that count and decide" in text


def test_its_costs_are_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """`make cost` writes them there, from what was measured."""
    assert cost.main([]) == 0
    assert capsys.readouterr().out.strip("\n") in section("Cost")


def test_what_idles_is_counted_as_the_template_has_it() -> None:
    """Alarms, and the metrics of the dashboard and of the alarms."""
    assert len(of_type("AWS::CloudWatch::Alarm")) == cost.ALARMS
    widgets = template()["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::ToJsonString"]["widgets"]
    metrics: list[Any] = [one for widget in widgets for one in widget["properties"]["metrics"]]
    ours = [one for one in metrics if one[0] == "Tollgate"]
    # Not shown: UnresolvedErrors in all, and the age for each of the 7 types.
    assert len(ours) + 1 + 7 == cost.METRICS


def test_a_month_costs_the_sum_of_what_is_done_in_it() -> None:
    """Twice as much of everything that is counted costs twice as much, and nothing what idles."""
    together = cost.events_together()
    one = cost.cost_of(cost.Month(1_000_000, 10, 100_000, 10_000, 100, 10), together)
    two = cost.cost_of(cost.Month(2_000_000, 10, 200_000, 20_000, 200, 20), together)
    idle = cost.cost_of(cost.Month(), together)
    assert one["events"] == pytest.approx(together[10])
    for line, usd in one.items():
        assert two[line] - usd == pytest.approx(usd - idle[line]), line
    assert 5 < sum(idle.values()) < 15
