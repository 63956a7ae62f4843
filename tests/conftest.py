"""What every test stands on: a function's environment, and the tables as template.yaml declares them."""

import os
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TABLES = ("catalog", "usage", "billing", "recovery")

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
