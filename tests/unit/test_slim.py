"""Trimming botocore for the layer."""

import gzip
import json
import os
from pathlib import Path

import slim


def test_what_shares_a_file_with_the_layer_keeps_it_as_it_was(tmp_path: Path) -> None:
    """Installers link files out of a cache, which other environments share: the layer's are replaced, not rewritten."""
    cache, site = tmp_path / "cache", tmp_path / "layer"
    endpoints = {"partitions": [{"partition": "aws", "services": {"sqs": {}, "s3": {}}}]}
    model = {"metadata": {"serviceId": "SQS"}, "documentation": "of no use"}
    files = {
        "botocore/data/endpoints.json": json.dumps(endpoints).encode(),
        "botocore/data/sqs/2012-11-05/service-2.json.gz": gzip.compress(json.dumps(model).encode()),
    }
    for name, content in files.items():
        for root in (cache, site):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_bytes(content)
        os.link(cache / name, site / name)
    (site / "boto3/data").mkdir(parents=True)
    slim.trim_data(site, {"sqs"})
    assert {name: (cache / name).read_bytes() for name in files} == files
    kept = json.loads((site / "botocore/data/endpoints.json").read_text())
    assert kept == {"partitions": [{"partition": "aws", "services": {"sqs": {}}}]}
    slimmed = json.loads((site / "botocore/data/sqs/2012-11-05/service-2.json").read_text())
    assert slimmed == {"metadata": {"serviceId": "SQS"}}
