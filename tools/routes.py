"""Makes the routes of the HTTP API on MiniStack, whose CloudFormation makes all but these.

SAM writes the routes into an OpenAPI body. API Gateway imports it; MiniStack does not, so we read that body
and make the authorizers, integrations and routes one by one through the API's own API.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tools import ToolError

if TYPE_CHECKING:
    from mypy_boto3_apigatewayv2 import ApiGatewayV2Client

__all__ = ["Route", "import_routes", "routes_of"]

ANY_METHOD = "x-amazon-apigateway-any-method"
AUTHORIZER = "x-amazon-apigateway-authorizer"
INTEGRATION = "x-amazon-apigateway-integration"


@dataclass(frozen=True)
class Route:
    """A route of the HTTP API, as the template has it.

    Attributes:
        key: `GET /path/{name}`, or `$default`.
        function: the logical id of the function that answers.
        authorizer: the name of the authorizer, or None where no key is needed.
    """

    key: str
    function: str
    authorizer: str | None


def import_routes(client: "ApiGatewayV2Client", template: Mapping[str, Any], resources: Mapping[str, str]) -> None:
    """Make the routes of the HTTP APIs in the processed template, and bring those up to date that exist.

    Where an API has no body its routes are resources, which MiniStack makes.

    Args:
        client: reaches the local AWS.
        template: as CloudFormation gives it with `TemplateStage="Processed"`.
        resources: the stack's physical ids by logical id.
    """
    for name, resource in template["Resources"].items():
        if resource["Type"] == "AWS::ApiGatewayV2::Api" and "Body" in resource["Properties"]:
            _import_api(client, resources[name], resource["Properties"]["Body"], resources)


def routes_of(body: Mapping[str, Any], functions: Sequence[str]) -> list[Route]:
    """Read the routes from an API's OpenAPI body; the functions are the logical ids that may be meant."""
    return [
        Route(
            key="$default" if path == "$default" else f"{_method(method)} {path}",
            function=_function_in(operation[INTEGRATION]["uri"], functions),
            authorizer=next(iter(_named(operation) & _authorizers_of(body).keys()), None),
        )
        for path, operations in body["paths"].items()
        for method, operation in operations.items()
        if INTEGRATION in operation
    ]


def _import_api(client: "ApiGatewayV2Client", api: str, body: Mapping[str, Any], resources: Mapping[str, str]) -> None:
    """Make one API's authorizers, integrations and routes; drop routes that the template does not have."""
    authorizers = _import_authorizers(client, api, body, resources)
    routes = routes_of(body, list(resources))
    integrations = _import_integrations(client, api, {resources[route.function] for route in routes})
    existing = {item["RouteKey"]: item["RouteId"] for item in client.get_routes(ApiId=api)["Items"]}
    for route in routes:
        settings: dict[str, Any] = {
            "ApiId": api,
            "RouteKey": route.key,
            "Target": f"integrations/{integrations[resources[route.function]]}",
            "AuthorizationType": "CUSTOM" if route.authorizer else "NONE",
        }
        if route.authorizer:
            settings["AuthorizerId"] = authorizers[route.authorizer]
        if route.key in existing:
            client.update_route(RouteId=existing[route.key], **settings)
        else:
            client.create_route(**settings)
    for key in existing.keys() - {route.key for route in routes}:
        client.delete_route(ApiId=api, RouteId=existing[key])


def _import_authorizers(
    client: "ApiGatewayV2Client", api: str, body: Mapping[str, Any], resources: Mapping[str, str]
) -> dict[str, str]:
    """Make the Lambda authorizers; return their ids by name."""
    ids = {item["Name"]: item["AuthorizerId"] for item in client.get_authorizers(ApiId=api)["Items"]}
    for name, wanted in _authorizers_of(body).items():
        settings: dict[str, Any] = {
            "ApiId": api,
            "Name": name,
            "AuthorizerType": "REQUEST",
            "AuthorizerUri": resources[_function_in(wanted["authorizerUri"], list(resources))],
            "AuthorizerPayloadFormatVersion": wanted["authorizerPayloadFormatVersion"],
            "AuthorizerResultTtlInSeconds": wanted.get("authorizerResultTtlInSeconds", 0),
            "EnableSimpleResponses": wanted.get("enableSimpleResponses", False),
            "IdentitySource": _identity_sources(wanted),
        }
        if name in ids:
            client.update_authorizer(AuthorizerId=ids[name], **settings)
        else:
            ids[name] = client.create_authorizer(**settings)["AuthorizerId"]
    return ids


def _import_integrations(client: "ApiGatewayV2Client", api: str, functions: set[str]) -> dict[str, str]:
    """Make a proxy integration for each function; return their ids by the function's physical name."""
    ids = {item["IntegrationUri"]: item["IntegrationId"] for item in client.get_integrations(ApiId=api)["Items"]}
    for function in sorted(functions - ids.keys()):
        made = client.create_integration(
            ApiId=api,
            IntegrationType="AWS_PROXY",
            IntegrationMethod="POST",
            IntegrationUri=function,
            PayloadFormatVersion="2.0",
        )
        ids[function] = made["IntegrationId"]
    return ids


def _authorizers_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """Read the authorizers of an API by name."""
    schemes = body.get("components", {}).get("securitySchemes", {})
    return {name: scheme[AUTHORIZER] for name, scheme in schemes.items() if AUTHORIZER in scheme}


def _named(operation: Mapping[str, Any]) -> set[str]:
    """Name the security schemes of an operation; SAM writes NONE, which is none, for a route without one."""
    return {name for each in operation.get("security", []) for name in each}


def _identity_sources(authorizer: Mapping[str, Any]) -> list[str]:
    """Read where the key is looked for; OpenAPI has a list or one string with commas."""
    sources = authorizer.get("identitySource") or []
    return [each.strip() for each in sources.split(",")] if isinstance(sources, str) else list(sources)


def _method(name: str) -> str:
    return "ANY" if name == ANY_METHOD else name.upper()


def _function_in(uri: object, functions: Sequence[str]) -> str:
    """Find the function that a URI names in one of CloudFormation's many ways."""
    words: list[str] = re.findall(r"\w+", json.dumps(uri))
    named = {*words} & {*functions}
    if len(named) != 1:
        raise ToolError(f"one function is expected in {json.dumps(uri)}, but it names {sorted(named) or 'none'}")
    return named.pop()
