"""/v1/files: uploads, lists, deletion, and forms that are none."""

import socket
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from ..batches.jsonl import BATCH_KEYS, client_of, request_line
from ..live import LiveServer

BOUNDARY = "multipart/form-data; boundary=b"


def post(server: LiveServer, content: bytes, content_type: str = BOUNDARY) -> httpx.Response:
    headers = {"content-type": content_type, "authorization": f"Bearer {BATCH_KEYS[0]}"}
    return httpx.post(f"{server.url}/v1/files", content=content, headers=headers)


def part(disposition: str, content: str) -> str:
    return f"--b\r\nContent-Disposition: form-data; {disposition}\r\n\r\n{content}\r\n"


FILE = part('name="file"; filename="a.jsonl"', "{}")
PURPOSE = part('name="purpose"', "batch")


def test_uploaded_file_read_listed_and_deleted(batch_client: openai.OpenAI) -> None:
    content = "\n".join(request_line(f"é{i}" * 50) for i in range(9000)).encode()  # several chunks
    assert len(content) > 3 << 20
    file = batch_client.files.create(file=("names é.jsonl", content), purpose="batch")
    assert (file.bytes, file.filename, file.purpose, file.status) == (
        len(content),
        "names é.jsonl",
        "batch",
        "processed",
    )
    assert file.expires_at == file.created_at + 30 * 86400
    assert batch_client.files.content(file.id).content == content
    assert batch_client.files.retrieve(file.id) == file
    assert batch_client.files.delete(file.id).deleted
    for call in (batch_client.files.retrieve, batch_client.files.content, batch_client.files.delete):
        with pytest.raises(openai.NotFoundError, match="No such File object"):
            call(file.id)


def test_list_pages_in_both_orders(batch_client: openai.OpenAI) -> None:
    made = [batch_client.files.create(file=(f"{i}", b"{}"), purpose="batch").id for i in range(3)]
    newest = [file.id for file in batch_client.files.list(limit=2)]  # the client fetches all pages
    oldest = [file.id for file in batch_client.files.list(limit=2, order="asc")]
    assert newest == oldest[::-1]
    assert set(made) <= set(newest)
    page = batch_client.files.list(limit=1)
    assert page.has_more
    assert not [file for file in batch_client.files.list(purpose="batch_output") if file.id in made]


def test_file_of_other_key_unknown(batch_server: LiveServer, batch_client: openai.OpenAI) -> None:
    file = batch_client.files.create(file=("a", b"{}"), purpose="batch")
    with client_of(batch_server, BATCH_KEYS[1]) as other:
        assert file.id not in [entry.id for entry in other.files.list()]
        for call in (other.files.retrieve, other.files.content, other.files.delete):
            with pytest.raises(openai.NotFoundError):
                call(file.id)
    assert batch_client.files.retrieve(file.id) == file


def test_expires_after_shortens_time(batch_client: openai.OpenAI) -> None:
    expiry: dict[str, object] = {"anchor": "created_at", "seconds": 3600}
    file = batch_client.files.create(file=("a", b"{}"), purpose="batch", expires_after=expiry)  # type: ignore[arg-type]
    assert file.expires_at == file.created_at + 3600
    with pytest.raises(openai.BadRequestError, match="expires_after"):
        batch_client.files.create(file=("a", b"{}"), purpose="batch", expires_after={**expiry, "seconds": 60})  # type: ignore[arg-type]


@pytest.mark.parametrize("form", [FILE + PURPOSE, PURPOSE + FILE], ids=["file first", "purpose first"])
def test_form_in_any_order_accepted(batch_server: LiveServer, form: str) -> None:
    assert post(batch_server, (form + "--b--\r\n").encode()).json()["bytes"] == 2


@pytest.mark.parametrize(
    ("content", "content_type", "words"),
    [
        (FILE + "--b--", BOUNDARY, "'purpose'"),
        (PURPOSE + "--b--", BOUNDARY, "'file'"),
        (FILE + part('name="purpose"', "vision") + "--b--", BOUNDARY, "vision"),
        (FILE + PURPOSE, BOUNDARY, "last boundary"),
        (PURPOSE + part('name="filename"', "a.jsonl") + "--b--", BOUNDARY, "'file'"),
        (FILE + FILE + PURPOSE + "--b--", BOUNDARY, "got two"),
        (FILE.replace("\r\n\r\n", "\r\nContent-Transfer-Encoding: base64\r\n\r\n", 1) + PURPOSE, BOUNDARY, "base64"),
        (FILE.replace("\r\n\r\n", f"\r\nX-A: {'a' * 5000}\r\n\r\n", 1) + PURPOSE, BOUNDARY, "eader"),
        ("nothing", BOUNDARY, "multipart"),
        ("", BOUNDARY, "last boundary"),
        (FILE + part('name="purpose"', "x" * 20_000) + "--b--", BOUNDARY, "10000"),
        (part('name="a"', "b") * 30 + "--b--", BOUNDARY, "at most 20"),
        (FILE + PURPOSE + "--b--", "multipart/form-data", "boundary"),
        (FILE + PURPOSE + "--b--", "application/json", "multipart/form-data"),
        (FILE + PURPOSE + "--b--", "multipart/form-data; boundary=" + "b" * 300, "oundary"),
    ],
)
def test_malformed_form_gets_400_and_leaves_no_file(
    batch_server: LiveServer, batch_client: openai.OpenAI, content: str, content_type: str, words: str
) -> None:
    before = [file.id for file in batch_client.files.list()]
    response = post(batch_server, content.encode(), content_type)
    assert (response.status_code, set(response.json()["error"])) == (400, {"message", "type", "param", "code"})
    assert words in response.json()["error"]["message"]
    assert [file.id for file in batch_client.files.list()] == before


def test_name_of_other_than_ascii_letters_kept(batch_server: LiveServer) -> None:
    """As clients of today send it, and as older ones do."""
    for name in ('filename="größe.jsonl"', "filename*=utf-8''gr%C3%B6%C3%9Fe.jsonl"):
        form = part(f'name="file"; {name}', "{}") + PURPOSE + "--b--\r\n"
        assert post(batch_server, form.encode()).json()["filename"] == "größe.jsonl"


def test_compressed_form_refused(batch_server: LiveServer) -> None:
    headers = {
        "authorization": f"Bearer {BATCH_KEYS[0]}",
        "content-type": BOUNDARY,
        "content-encoding": "gzip",
    }
    response = httpx.post(f"{batch_server.url}/v1/files", content=b"x", headers=headers)
    assert response.status_code == 415
    assert "gzip" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=x", "limit=99999999999", "limit=%C2%B2", "limit=%D9%A3", "limit=00000000000001", "order=up"],
)
def test_invalid_list_query_gets_400(batch_server: LiveServer, query: str) -> None:
    headers = {"authorization": f"Bearer {BATCH_KEYS[0]}"}
    response = httpx.get(f"{batch_server.url}/v1/files?{query}", headers=headers)
    assert response.json()["error"]["param"] == query.partition("=")[0]


def test_too_large_file_refused_unread(batch_server: LiveServer) -> None:
    address = urlsplit(batch_server.url)
    head = (
        f"POST /v1/files HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {BATCH_KEYS[0]}\r\n"
        f"content-type: {BOUNDARY}\r\ncontent-length: {2 << 30}\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("seconds", "status"), [("3600", 200), ("3600.0", 200), ("\u0663600", 400), ("0000003600.", 400), ("", 400)]
)
def test_seconds_of_expiry_are_ascii_digits(batch_server: LiveServer, seconds: str, status: int) -> None:
    expiry = part('name="expires_after[anchor]"', "created_at") + part('name="expires_after[seconds]"', seconds)
    assert post(batch_server, (FILE + PURPOSE + expiry + "--b--\r\n").encode()).status_code == status


@pytest.mark.parametrize("name", ["file-%00", "batch_%00", "%ED%A0%80", "a" * 5000])
@pytest.mark.parametrize("path", ["files/{}", "files/{}/content", "batches/{}", "files?after={}", "files?purpose={}"])
def test_impossible_ids_are_unknown(batch_server: LiveServer, path: str, name: str) -> None:
    headers = {"authorization": f"Bearer {BATCH_KEYS[0]}"}
    response = httpx.get(f"{batch_server.url}/v1/{path.format(name)}", headers=headers)
    if "?" in path:
        assert (response.status_code, response.json()["data"]) == (200, [])
    else:
        assert response.status_code == 404


@pytest.mark.parametrize("path", ["files", "files/file-1", "files/file-1/content", "batches", "batches/batch_1"])
def test_without_data_routes_name_the_flag(http: httpx.Client, path: str) -> None:
    response = http.get(f"/v1/{path}")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "batches_disabled")
    assert "--data" in response.json()["error"]["message"]
