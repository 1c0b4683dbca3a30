"""The sockets of --host and --port, one per address: every spelling of "all" and "this machine" has both families."""

import errno
import ipaddress
import logging
import os
import re
import socket

from engine import SanaError

log = logging.getLogger("sana.listening")
MAX_PORT = 65535
PORT_TRIES = 10  # for a port that is free in both families
STALLED_SECONDS = 60  # after which the kernel drops a client that does not acknowledge what it was sent
NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)  # IPv6 is turned off


class ListenError(SanaError):
    """The server cannot listen on the address."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Listening sockets on one port: one, or one per family. Raises ListenError."""
    if not 0 <= port <= MAX_PORT:
        raise ListenError(f"cannot listen on port {port}; --port must be 0 (a free one) to {MAX_PORT}")
    if re.match(r"\w+://|\[.*\]:|[^:]*:\d+$", host):
        raise ListenError(f"cannot listen on {host!r}; --host is an address alone, like 127.0.0.1, and --port the port")
    addresses = addresses_of(host)
    for _ in range(PORT_TRIES - 1):
        try:
            return bind_all(addresses, host, port)
        except ListenError:
            if port or len(addresses) == 1:
                raise
    return bind_all(addresses, host, port)


def addresses_of(host: str) -> list[str]:
    bare = host.strip().removeprefix("[").removesuffix("]").lower()
    if bare in ("", "*") or is_unspecified(bare):
        return ["0.0.0.0", "::"]  # two sockets: one for both families would report IPv4 clients as ::ffff:1.2.3.4
    if bare.removesuffix(".") == "localhost":
        return ["127.0.0.1", "::1"]
    return [bare.removeprefix("::ffff:") if "." in bare else bare]  # IPv4 in the form of IPv6, which its sockets refuse


def is_unspecified(host: str) -> bool:
    """Whether the host is "::" in any spelling; 0.0.0.0 stands for all addresses of IPv4 alone."""
    try:
        return ipaddress.IPv6Address(host).is_unspecified
    except ValueError:
        return False


def bind_all(addresses: list[str], host: str, port: int) -> list[socket.socket]:
    """A socket for each address, the first of which decides on a free port; an absent family is left out."""
    listeners: list[socket.socket] = []
    for address in addresses:
        try:
            listeners.append(bind(address, listeners[0].getsockname()[1] if listeners else port))
        except (OSError, UnicodeError) as error:  # UnicodeError: the host is not a valid name
            number = getattr(error, "errno", None) or 0  # above 0 the system's message is shorter than Python's
            reason = os.strerror(number) if number > 0 else getattr(error, "strerror", error)
            if number in NO_SUCH_FAMILY and len(addresses) > 1 and (listeners or address != addresses[-1]):
                log.info("not listening on %s: %s", address, reason)
                continue
            for listener in listeners:
                listener.close()
            message = f"cannot listen on {host}:{port}: {reason}; choose another with --host and --port"
            raise ListenError(message) from None
    return listeners


def bind(address: str, port: int) -> socket.socket:
    family, _, _, _, target = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.create_server(target, family=family)
    # Connections inherit the option. asyncio sets it only on sockets created with an explicit protocol, and without it
    # a client that delays acknowledgements waits 40 ms for every response that is written as head and body.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; connections inherit it
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALLED_SECONDS * 1000)
    return listener


def url_of(listeners: list[socket.socket]) -> str:
    """A URL that works on this machine: 0.0.0.0 and :: are no addresses to connect to."""
    host, port = listeners[0].getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
