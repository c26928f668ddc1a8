"""By which names clients may reach the API, so that no web page reads it by DNS rebinding."""

import socket
from pathlib import Path
from typing import Any

import httpx2
import pytest
from calls import SECRET_KEY, create
from servers import ApiServer

LOCAL = ["localhost", "localhost:8000", "LocalHost.", "app.localhost:80", "localhost:"]
ADDRESSES = ["127.0.0.1", "127.0.0.1.:1", "192.168.0.7:8000", "[::1]", "[2001:DB8::1]:8000"]
OTHERS = ["evil.example", "evil.example:8000", "xlocalhost", "localhost.evil.example", "2130706433"]
OTHERS += ["127.0.0.1.evil.example", "task_api", "_"]
MALFORMED = [b"", b".", b"[", b"[]", b"[::::]", b"[localhost]", b"::1", b"a b", b"a,b", b"a/b"]
MALFORMED += [b"localhost, localhost", b"user@localhost", b"localhost:x", b'a>; rel="x"']
MALFORMED += ["größe".encode(), b"\xff\xfe", b"[fe80::1%25eth0]"]


def status(client: httpx2.Client, host: str | bytes) -> int:
    sent = host.encode() if isinstance(host, str) else host
    return client.get("/tasks?limit=1", headers=[(b"Host", sent)]).status_code


def ask(server: ApiServer, head: str) -> bytes:
    """Return the status line of the answer to a request that no client of HTTP would send."""
    url = httpx2.URL(server.url)
    with socket.create_connection((url.host, url.port or 80)) as connection:
        connection.sendall(f"GET /tasks {head}Connection: close\r\n\r\n".encode())
        return connection.makefile("rb").readline().strip()


def test_without_sign_in_the_api_is_reached_only_by_local_names_and_addresses(
    client: httpx2.Client,
) -> None:
    create(client)

    assert {status(client, host) for host in LOCAL + ADDRESSES} == {200}
    assert {status(client, host) for host in OTHERS} == {400}
    for path in ("/tasks", "/docs", "/health", "/nothing", "/swagger/swagger-ui.css"):
        answer = client.get(path, headers={"Host": "Evil.example:8000"})
        assert answer.status_code == 400
        assert answer.json() == {
            "detail": "The host `evil.example` is not allowed: add it to ALLOWED_HOSTS"
        }


def test_with_sign_in_it_is_reached_by_any_name(ada: httpx2.Client) -> None:
    assert {status(ada, host) for host in LOCAL + ADDRESSES + OTHERS} == {200}


@pytest.mark.slow
@pytest.mark.parametrize("sign_in", [{}, {"SECRET_KEY": SECRET_KEY}])
def test_allowed_hosts_are_reached_by_local_names_too(
    tmp_path: Path, sign_in: dict[str, Any]
) -> None:
    sign_in["ALLOWED_HOSTS"] = "tasks.example.com, Task_api"
    url = f"sqlite:///{tmp_path}/tasks.db"
    with ApiServer(tmp_path, url, **sign_in) as server, server.client() as client:
        for host in (*LOCAL, *ADDRESSES, "Tasks.Example.com.:443", "task_api:8000"):
            assert client.get("/health", headers={"Host": host}).status_code == 200, host
        for host in ("example.com", "a.tasks.example.com", "evil.example"):
            assert client.get("/health", headers={"Host": host}).status_code == 400, host


def test_a_malformed_host_is_refused(client: httpx2.Client) -> None:
    create(client)

    assert {host for host in MALFORMED if status(client, host) != 400} == set()
    answer = client.get("/tasks", headers={"Host": "a/b"})
    assert answer.json() == {"detail": "The header `Host` is not the name or the address of a host"}


def test_with_sign_in_a_malformed_host_is_refused_too(ada: httpx2.Client) -> None:
    assert {host for host in MALFORMED if status(ada, host) != 400} == set()


def test_a_host_may_be_left_out_but_not_sent_twice(server: ApiServer) -> None:
    assert ask(server, "HTTP/1.0\r\n") == b"HTTP/1.1 200 OK"
    assert ask(server, "HTTP/1.1\r\n") == b"HTTP/1.1 200 OK"
    twice = "HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n"
    assert ask(server, twice) == b"HTTP/1.1 400 Bad Request"
