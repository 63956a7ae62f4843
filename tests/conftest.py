"""What every test stands on: a function's environment, and the tables as template.yaml declares them."""

import os
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import settings

ROOT = Path(__file__).parents[1]
TABLES = ("catalog", "usage", "billing", "recovery")

BEFORE = dict(os.environ)
"""The environment that pytest was started in."""

settings.register_profile("tollgate", deadline=None)  # a test never asserts wall time
settings.load_profile("tollgate")
os.environ.update(
    {
        **{f"{table.upper()}_TABLE": f"tollgate-test-{table}" for table in TABLES},
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "STAGE": "test",
        "METRICS_NAMESPACE": "Tollgate",
        "OPERATIONS_TOPIC_ARN": "arn:aws:sns:eu-central-1:123456789012:operations",
        "EVENTS_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/123456789012/events",
        "EVENTS_MAX_RECEIVES": "5",
        "ALERTS_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/123456789012/alerts",
        "BILLING_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/123456789012/billing",
        "BILLING_MAX_RECEIVES": "5",
        "RETRIES_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/123456789012/retries",
        "EVENTS_BUS_NAME": "tollgate-test-events",
        "POWERTOOLS_LOG_LEVEL": "WARNING",
    }
)


@cache
def template() -> dict[str, Any]:
    """template.yaml as written."""
    from samtranslator.yaml_helper import yaml_parse  # after the environment is set

    parsed: dict[str, Any] = yaml_parse((ROOT / "template.yaml").read_text())
    return parsed


def create_tables(client: Any) -> None:
    """Create the four tables with template.yaml's own keys and indexes, so that the schema lives once."""
    for table in TABLES:
        properties = template()["Resources"][f"{table.capitalize()}Table"]["Properties"]
        wanted = ("AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes", "BillingMode")
        client.create_table(
            TableName=os.environ[f"{table.upper()}_TABLE"],
            **{key: properties[key] for key in wanted if key in properties},
        )
