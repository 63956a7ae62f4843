"""Counts for CloudWatch, as lines of the log in its Embedded Metric Format.

No call and no wait: CloudWatch reads them out of the log. Where an alarm depends on a value it is put instead, as the
retry processor does. Powertools' own module does the same; its import takes 15 ms of each cold start
(docs/decisions.md).
"""

import json
import time

from tollgate.kernel.settings import required

__all__ = ["count"]


def count(**values: int) -> None:
    """Add to metrics, each under its name in the namespace of the deployment, for its stage; zeros are left out."""
    found = {name: value for name, value in values.items() if value}
    if not found:
        return
    directive = {
        "Namespace": required("METRICS_NAMESPACE"),
        "Dimensions": [["Stage"]],
        "Metrics": [{"Name": name, "Unit": "Count"} for name in found],
    }
    header = {"Timestamp": time.time_ns() // 1_000_000, "CloudWatchMetrics": [directive]}
    print(json.dumps({"_aws": header, "Stage": required("STAGE"), **found}))  # noqa: T201 - the log is what it is for
