"""What openapi.json says of each route, and the page that shows it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["answers", "docs_page"]


def answers(
    schema: Any,
    description: str,
    status: int = 200,
    *,
    media_type: str = "application/json",
    headers: Mapping[str, Any] | None = None,
) -> dict[int, Any]:
    """The `responses` of a route: a pydantic model, a JSON schema as a dict, or None for no content."""
    content = {"schema": schema} if isinstance(schema, dict) else {"model": schema}
    answer = {"description": description, "content": {media_type: content} if schema else {}}
    return {status: answer | ({"headers": dict(headers)} if headers else {})}


def docs_page(openapi: Path) -> str:
    """The reference page of an OpenAPI document: Swagger UI as Powertools ships it, all in one page."""
    from aws_lambda_powertools.event_handler.openapi import swagger_ui  # 1.7 MB, for this route alone

    assets = Path(swagger_ui.__file__).parent
    document = json.dumps(json.loads(openapi.read_text())).replace("</", "<\\/")
    page: str = swagger_ui.generate_swagger_html(
        document,
        (assets / "swagger-ui-bundle.min.js").read_text(),
        (assets / "swagger-ui.min.css").read_text(),
        "",
        None,
    )
    return page.replace("<title>Swagger UI</title>", "<title>Tollgate API</title>")
