"""The addresses that clients use: checks of the URLs in the settings, and the headers of trusted proxies."""

import ipaddress
import os
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from engine import SanaError

MAPPED = "::ffff:"
"""Prefix of IPv4 addresses in sockets that take both families."""
THIS_MACHINE = "127.0.0.1,::1"
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
PREFIX = re.compile(r"(/[A-Za-z0-9._~%-]+)+")
PATH = re.compile(r"([A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
DEFAULT_PORTS = {"http": "80", "https": "443"}
FORWARDED_PAIR = re.compile(r'\s*(proto|host)\s*=\s*"?([^";,]+)', re.IGNORECASE)


class URLError(SanaError):
    """A setting is no URL that can work."""


class ProxyError(SanaError):
    """A trusted proxy is no address."""


def check_url(flag: str, url: str, query: bool = False) -> None:
    """Raises URLError unless `url` is http(s)://HOST with a port, a path and, if `query`, a query at most."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in DEFAULT_PORTS and HOST.fullmatch(parts.netloc) and parts.port != 0
        valid = bool(valid and PATH.fullmatch(parts.path))
    except ValueError:  # a port above 65535, or half of a bracket
        valid = False
    if not valid or re.search(r"[#\s]" if query else r"[?#\s]", url):
        rest = re.sub("^https?:/*", "", url)
        hint = f"; did you mean https://{rest}?" if HOST.match(rest) and "//" not in url else ""
        raise URLError(f"{flag} must be like https://example.org or https://example.org/path, got {url!r}{hint}")


def server_url(url: str) -> str:
    """The URL of a server, from that or from a client's base URL, which ends in /v1. Raises URLError."""
    check_url("the server's URL", url)
    return url.rstrip("/").removesuffix("/v1")


def trusted_addresses(proxies: Sequence[str]) -> list[str]:
    """The addresses and networks of --trusted-proxy, else of uvicorn's variable, else this machine's own addresses.

    Raises ProxyError.
    """
    given = list(proxies) or re.findall(r"[^,\s]+", os.environ.get("FORWARDED_ALLOW_IPS", THIS_MACHINE))
    if "*" in given:
        return ["*"]
    try:
        return [str(ipaddress.ip_network(proxy.removeprefix(MAPPED), strict=False)) for proxy in given]
    except ValueError:
        wanted = "an address like 10.0.0.7, a network like 10.0.0.0/8, or * for all"
        raise ProxyError(f"--trusted-proxy must be {wanted}, got {', '.join(map(repr, given))}") from None


class TrustedProxies(ProxyHeadersMiddleware):
    """ASGI middleware: client, scheme, host and path prefix of the request as it reached the first proxy.

    uvicorn's class reads X-Forwarded-For and X-Forwarded-Proto. Headers of other senders than the trusted ones have
    no effect.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["client"]:
            address, port = scope["client"]
            scope["client"] = (address.removeprefix(MAPPED) if "." in address else address, port)
            if scope["client"][0] in self.trusted_hosts:
                apply_forwarded(scope)
        await super().__call__(scope, receive, send)


def apply_forwarded(scope: Scope) -> None:
    """Sets scheme, Host header and root path by X-Forwarded-Proto, -Host, -Port and -Prefix, or by Forwarded.

    Each proxy of a chain appends its value, so the first is what the client used. Malformed values are ignored.
    """
    headers = Headers(scope=scope)

    def first(name: str) -> str:
        return headers.get(f"x-forwarded-{name}", "").partition(",")[0].strip()

    pairs = FORWARDED_PAIR.findall(headers.get("forwarded", "").partition(",")[0])
    standard = {name.lower(): value.strip() for name, value in pairs}
    host, port = first("host") or standard.get("host", "") or headers.get("host", ""), first("port")
    scheme = (
        first("proto") or standard.get("proto", "") or ("https" if port == DEFAULT_PORTS["https"] else "")
    ).lower()
    if scheme in DEFAULT_PORTS:
        scope["scheme"] = scheme
    scope["headers"] = [
        entry for entry in scope["headers"] if entry[0] != b"x-forwarded-proto"
    ]  # uvicorn's is the last
    match = HOST.fullmatch(host)
    if match:
        if not match[2] and re.fullmatch("[0-9]{1,5}", port) and port != DEFAULT_PORTS[scope["scheme"]]:
            host = f"{host}:{port}"
        others = [entry for entry in scope["headers"] if entry[0] != b"host"]
        scope["headers"] = [(b"host", host.encode()), *others]
    prefix = first("prefix").rstrip("/")
    if PREFIX.fullmatch(prefix):
        scope["root_path"] = prefix
