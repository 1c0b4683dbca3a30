"""Every spelling of "all" and "this machine": who can connect, and the URL that is printed."""

import socket

import pytest

from server.listening import ListenError, listen, url_of

LOOPBACKS = {"127.0.0.1": socket.AF_INET, "::1": socket.AF_INET6}


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def reachable(port: int) -> set[str]:
    found = set()
    for address in LOOPBACKS:
        try:
            socket.create_connection((address, port), timeout=5).close()
            found.add(address)
        except OSError:
            continue
    return found


BOTH = set(LOOPBACKS)
HOSTS = {
    "": BOTH,
    "*": BOTH,
    "::": BOTH,
    "[::]": BOTH,
    "0::0": BOTH,
    "0:0:0:0:0:0:0:0": BOTH,
    "localhost": BOTH,
    "LOCALHOST": BOTH,
    "localhost.": BOTH,
    "::ffff:127.0.0.1": {"127.0.0.1"},
    "::ffff:0.0.0.0": {"127.0.0.1"},
    "0x7f.1": {"127.0.0.1"},
    "0.0.0.0": {"127.0.0.1"},
    "0": {"127.0.0.1"},
    "127.0.0.1": {"127.0.0.1"},
    "127.1": {"127.0.0.1"},
    "::1": {"::1"},
    "[::1]": {"::1"},
}


@pytest.mark.parametrize(("host", "expected"), HOSTS.items())
def test_host_spelling_reaches_families(host: str, expected: set[str]) -> None:
    if not has_ipv6():
        expected = expected - {"::1"}
    if not expected:
        pytest.skip("this machine has no IPv6")
    listeners = listen(host, 0)
    port = listeners[0].getsockname()[1]
    assert reachable(port) == expected
    printed = url_of(listeners).removeprefix("http://").removesuffix(f":{port}").strip("[]")
    assert printed in expected
    for listener in listeners:
        listener.close()


@pytest.mark.parametrize("host", ["http://127.0.0.1", "127.0.0.1:8000", "[::1]:8000", "localhost:8000", ":8000"])
def test_host_with_scheme_or_port_refused(host: str) -> None:
    with pytest.raises(ListenError, match="--host is an address alone") as caught:
        listen(host, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", "2001:db8::1", "::g", "1.2.3.4.5", "a" * 70])
def test_host_of_another_machine_refused(host: str) -> None:
    with pytest.raises(ListenError, match=r"cannot listen on .*; choose another with --host"):
        listen(host, 0)


def test_port_taken_in_one_family_refused() -> None:
    if not has_ipv6():
        pytest.skip("this machine has no IPv6")
    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as taken,
        pytest.raises(ListenError, match="Address already in use"),
    ):
        listen("localhost", taken.getsockname()[1])
