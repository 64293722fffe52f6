"""Ask a node's API, for the command line: synchronous, standard library only, plain HTTP.

In: the base URL of a node and a deadline. Out: the decoded JSON of `GET /status`.

Invariant: whatever goes wrong - nobody listens, somebody else does, the answer is cut short - is
one `UnreachableError` that names the URL and says what to do. Proxies from the environment are
not used: the API is asked directly, or loopback addresses would be asked of a stranger.

Deliberately unaware of what the answer means, and of the web server on the other side.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request

from metako.model.errors import UnreachableError, UsageError

ANSWER_BYTES_MAX = 4 * 1024 * 1024
"""Larger than the status of a thousand members; whatever sends more is not an agent."""

HINT = "is the agent running? `systemctl status metako`, or start it with `metako run -c FILE`"


def fetch_status(url: str, timeout_s: float) -> dict[str, object]:
    """Return the body of `GET /status` of the node whose API is at `url`.

    Args:
        url: `http://host:port`, `host:port` or the address of any of its paths' parents.
        timeout_s: bound on the connection and on each read.

    Raises:
        UnreachableError: nobody answers there, or whoever does is not a metako agent.
        UsageError: `url` is not an HTTP address.
    """
    base = base_url(url)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(  # noqa: S310  # base_url admits http only
        base + "/status", headers={"Accept": "application/json"}
    )
    try:
        with opener.open(request, timeout=timeout_s) as response:
            body = response.read(ANSWER_BYTES_MAX + 1)
    except urllib.error.HTTPError as error:
        error.close()
        raise UnreachableError(
            f"{base}/status answers {error.code}: is this the API of a metako agent?"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableError(f"no answer from {base}: {_reason(error)}; {HINT}") from None
    return _decode(body, base)


def base_url(url: str) -> str:
    """Return `http://host:port` without a trailing slash.

    Raises:
        UsageError: another scheme, no host, or a port out of range.
    """
    text = url if "://" in url else f"http://{url}"
    try:
        parts = urllib.parse.urlsplit(text)
        valid = parts.scheme == "http" and bool(parts.hostname)
        _ = parts.port  # raises if it is out of range
    except ValueError:
        valid = False
    if not valid or any(character.isspace() for character in text):
        raise UsageError(f"not the address of an API: {url!r}; expected http://HOST:PORT")
    return f"http://{parts.netloc}{parts.path.rstrip('/')}"


def _decode(body: bytes, base: str) -> dict[str, object]:
    try:
        data = json.loads(body) if len(body) <= ANSWER_BYTES_MAX else None
    except ValueError:
        data = None
    if not isinstance(data, dict) or "node" not in data or "members" not in data:
        raise UnreachableError(f"{base}/status answers, but not as a metako agent does")
    return data


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return "timed out"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause) or type(cause).__name__
