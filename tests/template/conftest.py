"""The template as AWS sees it: translated by SAM in this process, with no AWS called."""

import copy
from typing import Any

import pytest

from tests.conftest import template


@pytest.fixture(scope="session")
def translated() -> dict[str, Any]:
    """template.yaml after the SAM transform.

    The transform AWS::LanguageExtensions, which this process does not have, is left out: it only lets
    DeletionPolicy have a condition, which stands here as it was written.
    """
    from samtranslator.parser.parser import Parser  # half a second, for these tests alone
    from samtranslator.translator.translator import Translator

    class Region:
        region_name = "eu-central-1"

    source = copy.deepcopy(template())
    source["Transform"] = "AWS::Serverless-2016-10-31"
    for resource in source["Resources"].values():
        for uri in ("CodeUri", "ContentUri"):  # sam deploy uploads them before
            if uri in resource.get("Properties", {}):
                resource["Properties"][uri] = "s3://bucket/key"
    result: dict[str, Any] = Translator({}, Parser(), boto_session=Region()).translate(source, {})
    return result


@pytest.fixture(scope="session")
def resources(translated: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The resources of the translated template by logical id."""
    found: dict[str, dict[str, Any]] = translated["Resources"]
    return found
