"""Reduce botocore to what a client needs, when the layer is built: `python slim.py <site-packages> <service>...`.

Descriptions of other services, of each operation's documentation, and of other services' endpoints are read and parsed
by every client that is made, and are 29 of botocore's 30 MB.
"""

import gzip
import json
import shutil
import sys
from pathlib import Path
from typing import Any

_ENDPOINT_OF = {"cloudwatch": "monitoring"}  # where a service's endpoints have another name


def main(site: Path, services: set[str]) -> None:
    """Trim boto3 and botocore in a folder of packages."""
    for folder in (*(site / "botocore/data").iterdir(), *(site / "boto3/data").iterdir()):
        if folder.is_dir() and folder.name not in services:
            shutil.rmtree(folder)
    for model in (site / "botocore/data").glob("*/*/service-2.json.gz"):
        body = _without_documentation(json.loads(gzip.decompress(model.read_bytes())))
        _write(model.with_suffix(""), body)
        model.unlink()
    for examples in (site / "botocore/data").glob("*/*/examples-1.json*"):
        examples.unlink()
    endpoints = site / "botocore/data/endpoints.json"
    body = json.loads(endpoints.read_text(encoding="utf-8"))
    kept = {_ENDPOINT_OF.get(service, service) for service in services}
    for partition in body["partitions"]:
        partition["services"] = {name: one for name, one in partition["services"].items() if name in kept}
    _write(endpoints, body)


def _write(file: Path, body: Any) -> None:
    """Put a new file in the place of one that may be a hard link into the installer's cache, which others share."""
    file.unlink(missing_ok=True)
    file.write_text(json.dumps(body, separators=(",", ":")), encoding="utf-8")


def _without_documentation(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_documentation(one) for one in value]
    if not isinstance(value, dict):
        return value
    # A member may have that name too; its description is an object.
    return {
        name: _without_documentation(one)
        for name, one in value.items()
        if not (name in {"documentation", "documentationUrl"} and isinstance(one, str))
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), set(sys.argv[2:]))
