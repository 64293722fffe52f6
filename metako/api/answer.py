"""An HTTP answer in JSON, as every path gives it: one line, in UTF-8."""

from __future__ import annotations

import json

from starlette.responses import Response

from metako.api.view import JsonObject


def json_answer(body: JsonObject, code: int = 200, headers: object = None) -> Response:
    """Return `body` as an answer; `headers` are added if they are a dict."""
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False) + "\n"
    response = Response(text, status_code=code, media_type="application/json")
    if isinstance(headers, dict):
        response.headers.update(headers)
    return response
