"""The values of --cors-origin as browsers send them in the Origin header: what can never match is refused at start."""

import ipaddress
import logging
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from engine import SanaError

log = logging.getLogger("sana.origins")
DEFAULT_PORTS = {"http": 80, "https": 443}
NUMBERS = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)\.?")
HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")


class OriginError(SanaError):
    """A value of --cors-origin that no web page has as its origin."""

    def __init__(self, origin: str, reason: str) -> None:
        super().__init__(f"--cors-origin {origin!r} matches no web page: {reason}")


def parse_origins(origins: Sequence[str]) -> list[str]:
    """The origins as browsers spell them. Raises OriginError."""
    parsed = [parse_origin(origin) for origin in origins]
    for given, origin in zip(origins, parsed, strict=True):
        if given != origin:
            log.info("--cors-origin %r is read as %r", given, origin)
    return parsed


def parse_origin(given: str) -> str:
    """One origin, with its scheme and host in lower case, without a final slash or the scheme's default port."""
    text = given.strip()
    if text.lower() in ("*", "null"):  # null: pages from files and in sandboxes
        return text.lower()
    if "*" in text:
        raise OriginError(given, "* stands alone and allows all; name each page without it")
    if re.search(r"[\s,]", text):
        raise OriginError(given, "a value is one origin; repeat the flag for each")
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
        raise OriginError(given, f"it must begin with a scheme, like https://{text.partition('/')[0] or 'example.org'}")
    if scheme == "file":
        raise OriginError(given, "pages from files have the origin null")
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    if rest not in (authority, f"{authority}/"):
        raise OriginError(given, f"an origin has no path, like {scheme}://{authority}")
    if "@" in authority:
        raise OriginError(given, "an origin has no user name")
    try:
        parts = urlsplit(f"{scheme}://{authority}")
        host, port = parts.hostname or "", parts.port
        host = f"[{ipaddress.IPv6Address(host)}]" if ":" in host else host.encode("idna").decode()
    except ValueError as error:
        raise OriginError(given, f"its host or port is invalid ({error})") from None
    if NUMBERS.fullmatch(host):  # browsers read 1.2.3 and 0x7f.1 as other addresses
        host = host.removesuffix(".")
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise OriginError(given, "its host is no IPv4 address of four numbers") from None
    if (not host.startswith("[") and not HOST.fullmatch(host)) or "%" in host:
        raise OriginError(given, "its host is invalid; it must be like https://example.org")
    return f"{scheme}://{host}" if port in (None, DEFAULT_PORTS.get(scheme)) else f"{scheme}://{host}:{port}"
