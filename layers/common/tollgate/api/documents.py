"""What openapi.json says of each route, and the page that shows it."""

import json
from pathlib import Path
from typing import Any

__all__ = ["answers", "docs_page"]


def answers(schema: Any, description: str, status: int = 200) -> dict[int, Any]:
    """The `responses` of a route: a pydantic model, or a JSON schema as a dict."""
    content = {"schema": schema} if isinstance(schema, dict) else {"model": schema}
    return {status: {"description": description, "content": {"application/json": content}}}


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
