"""Who may ask a server: who has its key, and without a key no page of a web site."""

import hmac
import ipaddress
import urllib.parse

from starlette.datastructures import Headers
from starlette.types import Scope

from nemojax.inference.server.errors import ApiError

_OPEN_TO_ALL = ("/health",)
# Domains that nobody can own, and so none can point to somebody else's server.
_NOBODYS = ("localhost", "local", "internal")


class Access:
    """Refuses requests that may not be answered."""

    def __init__(self, key: str | None, host: str):
        """Remembers what requests have to have.

        Args:
          key: key that clients have to send; None: none.
          host: name that the server was told to listen on.
        """
        self._key, self._host = key, host.lower()

    def refusal(self, scope: Scope) -> ApiError | None:
        """Returns the error of a request that is refused, None for others."""
        headers = Headers(scope=scope)
        if "content-length" in headers and "transfer-encoding" in headers:
            return ApiError(
                400,
                "Content-Length and Transfer-Encoding: send one of them",
                headers={"Connection": "close"},
            )
        if scope["path"] in _OPEN_TO_ALL:
            return None
        if self._key is not None:
            return None if _has_key(headers, self._key) else _unauthorised()
        name = _name(headers.get("host", ""))
        if not (_is_address(name) or _is_private(name) or name == self._host):
            text = f"Host {name!r} is unknown: ask by address, or start with a key"
            return ApiError(403, text, code="host_not_allowed")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if scope["method"] == "POST" and kind != "application/json":
            text = f"Content-Type is {kind!r}: send application/json"
            return ApiError(415, text, code="unsupported_media_type")
        return None


def _has_key(headers: Headers, key: str) -> bool:
    sent = headers.getlist("authorization")
    scheme, _, found = sent[0].partition(" ") if len(sent) == 1 else ("", "", "")
    same = hmac.compare_digest(found.strip().encode("latin-1"), key.encode())
    return scheme.lower() == "bearer" and same


def _name(host: str) -> str:
    """Returns the name of a Host header, without the port."""
    try:
        return (urllib.parse.urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return host


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _is_private(name: str) -> bool:
    """Returns whether no web site can have a name: DNS would lead its pages here."""
    return "." not in name or name.rpartition(".")[2] in _NOBODYS


def _unauthorised() -> ApiError:
    return ApiError(
        401,
        "send the key as `Authorization: Bearer KEY`",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )
