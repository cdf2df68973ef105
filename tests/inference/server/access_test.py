"""Who may ask: everybody who has the key; without a key, no page of a web site."""

import pytest

pytest.importorskip("starlette")

from nemojax.inference.server.access import Access

JSON = {"content-type": "application/json"}


def status(access, method="POST", path="/v1/completions", headers=()):
    """The status of the refusal of a request, None for one that may be answered."""
    pairs = headers.items() if isinstance(headers, dict) else headers
    raw = [(name.encode(), value.encode()) for name, value in pairs]
    scope = {"type": "http", "method": method, "path": path, "headers": raw}
    refusal = access.refusal(scope)
    return refusal and refusal.status


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        *[(name, True) for name in ("localhost", "127.0.0.1", "[::1]", "10.0.0.7")],
        *[
            (name, True)
            for name in ("LOCALHOST", "gpu-box", "gpu.local", "a.localhost")
        ],
        ("models.example.org", True),  # which the server was told to listen on
        *[(name, False) for name in ("evil.example", "127.0.0.1.evil.example")],
        *[(name, False) for name in ("localhost.evil.example", "local.evil")],
    ],
)
@pytest.mark.parametrize("port", ["", ":8000"])
def test_a_name_that_a_web_site_can_have_is_refused(host, allowed, port):
    access = Access(None, "models.example.org")
    for method in ("GET", "POST"):
        found = status(access, method, headers={"host": host + port, **JSON})
        assert found == (None if allowed else 403)
    with_key = {"host": host, "authorization": "Bearer secret"}
    assert status(Access("secret", ""), headers=with_key) is None


@pytest.mark.parametrize(
    ("kind", "allowed"),
    [
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("text/plain", False),
        ("text/plain; application/json", False),
        ("application/x-www-form-urlencoded", False),
        ("multipart/form-data; boundary=a", False),
        ("", False),
        (None, False),
    ],
)
def test_what_a_page_can_send_anywhere_is_no_request(kind, allowed):
    """Browsers ask first before they send JSON to another site, and are not let."""
    headers = {"host": "localhost"} | ({} if kind is None else {"content-type": kind})
    assert status(Access(None, ""), headers=headers) == (None if allowed else 415)
    assert status(Access(None, ""), "GET", "/v1/models", headers) is None


@pytest.mark.parametrize(
    ("sent", "allowed"),
    [
        (["Bearer secret"], True),
        (["bearer secret"], True),
        (["BEARER  secret"], True),
        ([], False),
        (["secret"], False),
        (["Bearer"], False),
        (["Bearer secre"], False),
        (["Bearer secret2"], False),
        (["Basic secret"], False),
        (["Bearer sécret"], False),
        (["Bearer no", "Bearer secret"], False),
        (["Bearer secret", "Bearer no"], False),
    ],
)
def test_the_key_is_the_one_that_is_sent(sent, allowed):
    headers = [("authorization", value) for value in sent]
    found = status(Access("secret", ""), headers=headers)
    assert found == (None if allowed else 401)
    assert status(Access("secret", ""), "GET", "/health", headers) is None


@pytest.mark.parametrize("key", [None, "secret"])
def test_a_body_of_two_lengths_is_refused(key):
    headers = {"content-length": "5", "transfer-encoding": "chunked", **JSON}
    headers |= {"authorization": "Bearer secret"}
    assert status(Access(key, ""), headers=headers) == 400
