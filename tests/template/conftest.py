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
    """The resources of the translated template by logical id, for a deployment without a key of its own."""
    return decided(translated["Resources"], {"HasKmsKey": False})


@pytest.fixture(scope="session")
def encrypted(translated: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The same for a deployment with KmsKeyArn."""
    return decided(translated["Resources"], {"HasKmsKey": True})


def decided(resources: dict[str, dict[str, Any]], conditions: dict[str, bool]) -> dict[str, dict[str, Any]]:
    """Resources with these conditions decided, as CloudFormation does; other conditions stand as they are written."""
    there = {name: one for name, one in resources.items() if conditions.get(one.get("Condition", ""), True)}
    return {name: _decide(one, conditions) for name, one in there.items()}


_NOTHING = {"Ref": "AWS::NoValue"}


def _decide(value: Any, conditions: dict[str, bool]) -> Any:
    match value:
        case {"Fn::If": [str(name), so, otherwise]} if name in conditions:
            return _decide(so if conditions[name] else otherwise, conditions)
        case {"Fn::If": [str(name), so, otherwise]}:
            return {"Fn::If": [name, _decide(so, conditions), _decide(otherwise, conditions)]}
        case dict():
            parts = {key: _decide(part, conditions) for key, part in value.items()}
            return {key: part for key, part in parts.items() if part != _NOTHING}
        case list():
            return [part for part in (_decide(part, conditions) for part in value) if part != _NOTHING]
    return value
