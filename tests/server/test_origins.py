"""Values of --cors-origin, and preflights of the page that they allow."""

import pytest

from server.cli import main
from server.origins import OriginError, parse_origins

MENDED = {
    "https://example.org/": "https://example.org",
    "HTTPS://Example.ORG": "https://example.org",
    "https://example.org:443": "https://example.org",
    "http://example.org:80/": "http://example.org",
    "https://example.org:80": "https://example.org:80",
    " https://example.org\n": "https://example.org",
    "http://[0:0::1]:3000": "http://[::1]:3000",
    "https://bücher.example": "https://xn--bcher-kva.example",
    "http://localhost:3000": "http://localhost:3000",
    "chrome-extension://abcdef": "chrome-extension://abcdef",
    "null": "null",
    "NULL": "null",
    "https://127.0.0.1.": "https://127.0.0.1",
    "*": "*",
}
REFUSED = {
    "https://example.org/app": "no path, like https://example.org",
    "https://example.org?x": "no path",
    "https://example.org/#": "no path",
    "example.org": "like https://example.org",
    "localhost:3000": "like https://localhost:3000",
    "//example.org": "scheme",
    "": "scheme",
    "https://*.example.org": "stands alone",
    "https://a.example,https://b.example": "repeat the flag",
    "https://user@example.org": "no user name",
    "https://example.org:port": "host or port",
    "https://example.org:99999": "host or port",
    "https://": "host",
    "https://[::1": "host",
    "https://[fe80::1%eth0]": "host",
    "https://10.1": "four numbers",
    "https://0x7f.0.0.1": "four numbers",
    "https://300.0.0.1": "four numbers",
    "'https://example.org'": "scheme",
    "file:///home/me": "null",
}


@pytest.mark.parametrize(("given", "origin"), MENDED.items())
def test_origin_spelled_as_browsers_do(given: str, origin: str) -> None:
    assert parse_origins([given]) == [origin]


@pytest.mark.parametrize(("given", "words"), REFUSED.items())
def test_origin_that_matches_no_page_refused(given: str, words: str) -> None:
    with pytest.raises(OriginError) as caught:
        parse_origins(["https://a.example", given])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_refused_origin_stops_start_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "0", "--cors-origin", "example.org"]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sana: ")]
    assert len(lines) == 1
    assert "https://example.org" in lines[0]
