"""What an operator may rely on behind nginx and Caddy, which run with the files of `deploy/`."""

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Timer
from typing import Self

import httpx2
import pytest
from calls import PASSWORD, SECRET_KEY, at_once, create, insert_user, sign_in
from servers import ROOT, ApiServer, connect, free_port

from api.passwords import hasher

pytestmark = pytest.mark.slow
DEPLOY = ROOT / "deploy"
# Seconds after which each closes an idle connection between both. Operators have 60 and 75.
PROXY_IDLE = 1
API_IDLE = 2

# What nginx.conf is included in, with each folder and file that a user may have no right to write.
NGINX = """
daemon off;
user root; # ignored for others
pid nginx.pid;
events {}
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    scgi_temp_path scgi;
    uwsgi_temp_path uwsgi;
    set_real_ip_from 127.0.0.0/8; # lets a test come from any address
    real_ip_header Test-Address;
    include site.conf;
}
"""
# What keeps Caddy from the usual ports and from the certificates that this machine trusts.
CADDY = """
    admin off
    skip_install_trust
    http_port {}
    https_port {}
"""


class UnixServer(ApiServer):
    """An API that listens on a unix socket only."""

    def __init__(self, folder: Path, *options: str, **settings: str) -> None:
        self.socket = folder / "api.sock"
        proxied = ("--uds", str(self.socket), "--forwarded-allow-ips", "*", *options)
        super().__init__(folder, f"sqlite:///{folder}/tasks.db", *proxied, app_dir=ROOT, **settings)

    def client(self, **headers: str) -> httpx2.Client:
        transport = httpx2.HTTPTransport(uds=str(self.socket), verify=False)
        return httpx2.Client(base_url="http://api", headers=headers, transport=transport)

    def wait_until_it_serves(self) -> None:
        for _ in range(1200):
            if "Uvicorn running on unix socket" in self.log.read_text():
                return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.025)
        raise TimeoutError(self.log.read_text())


class Proxy:
    """nginx or Caddy with its file of `deploy/`, in front of the socket of a folder."""

    def __init__(
        self, name: str, folder: Path, prefix: str = "", changes: dict[str, str] | None = None
    ) -> None:
        self.name = name
        self.folder = folder
        self.prefix = prefix
        self.http_port, self.https_port = free_port(), free_port()
        self.url = f"https://localhost:{self.https_port}"
        self.log = folder / f"{name}.log"
        set_up = {"nginx": self.set_up_nginx, "caddy": self.set_up_caddy}[name]
        program, self.certificate = set_up(changes or {})
        settings = {
            "SITE": "localhost",
            "API": f"unix/{folder}/api.sock",
            "PREFIX": prefix,
            "XDG_DATA_HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder),
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                program, env=os.environ | settings, stdout=log, stderr=subprocess.STDOUT
            )

    def set_up_nginx(self, changes: dict[str, str]) -> tuple[list[str], Path]:
        """Return the command, and the certificate that clients trust."""
        certificate = self.folder / "fullchain.pem"
        subprocess.run(
            [
                *(
                    "openssl",
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                ),
                *("-nodes", "-keyout", self.folder / "privkey.pem", "-out", certificate),
                *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            ],
            check=True,
            capture_output=True,
        )
        own = {
            "/run/task-api": str(self.folder),
            "/etc/letsencrypt/live/tasks.example.com": str(self.folder),
            "listen 80;": f"listen {self.http_port};",
            "listen [::]:80;": f"listen [::]:{self.http_port};",
            "listen 443 ": f"listen {self.https_port} ",
            "listen [::]:443 ": f"listen [::]:{self.https_port} ",
        }
        if self.prefix:
            # As the comment in the file says.
            own |= {"location / {": f"location {self.prefix}/ {{", "http://api;": "http://api/;"}
        (self.folder / "nginx.conf").write_text(NGINX)
        (self.folder / "site.conf").write_text(changed(DEPLOY / "nginx.conf", own | changes))
        files = ["-p", str(self.folder), "-c", "nginx.conf", "-e", "stderr"]
        return [find_program("nginx"), *files], certificate

    def set_up_caddy(self, changes: dict[str, str]) -> tuple[list[str], Path]:
        """Return the command, and the certificate that clients trust."""
        options = CADDY.format(self.http_port, self.https_port)
        file = self.folder / "Caddyfile"
        file.write_text(
            changed(DEPLOY / "Caddyfile", {"\tservers {": f"{options}\tservers {{"} | changes)
        )
        command = [find_program("caddy"), "run", "--adapter", "caddyfile", "--config", str(file)]
        return command, self.folder / "caddy/pki/authorities/local/root.crt"

    def client(self, address: str = "127.0.0.1", **headers: str) -> httpx2.Client:
        """Return a new client at one of the addresses of this machine, 127.0.0.1 to .255."""
        trusted = ssl.create_default_context(cafile=self.certificate)
        transport = httpx2.HTTPTransport(verify=trusted, local_address=address)
        return httpx2.Client(base_url=self.url, headers=headers, transport=transport, timeout=60)

    def connect(self, scheme: str = "https") -> socket.socket:
        """Return a new connection, for what no client of HTTP does."""
        port = {"http": self.http_port, "https": self.https_port}[scheme]
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        if scheme == "http":
            return connection
        trusted = ssl.create_default_context(cafile=self.certificate)
        return trusted.wrap_socket(connection, server_hostname="localhost")

    def __enter__(self) -> Self:
        for _ in range(400):
            # Caddy writes its certificate at the start.
            with suppress(OSError, httpx2.TransportError), self.client() as client:
                client.get("/")
                return self
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.025)
        raise TimeoutError(self.log.read_text())

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)


def find_program(name: str) -> str:
    program = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip(f"{name} is not installed on this machine")
    return program


def changed(file: Path, changes: dict[str, str]) -> str:
    """Return the text of a file with other values, each of which it has to have."""
    text = file.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def name(request: pytest.FixtureRequest) -> str:
    find_program(request.param)
    return str(request.param)


@pytest.fixture(scope="module")
def api(name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[UnixServer]:
    """An API where one must sign in, and where Ada may."""
    folder = tmp_path_factory.mktemp(name)
    with UnixServer(folder, "--timeout-keep-alive", str(API_IDLE), SECRET_KEY=SECRET_KEY) as api:
        insert_user(connect(api.database_url), "ada", password_hash=hasher.hash(PASSWORD))
        yield api


@pytest.fixture(scope="module")
def proxy(name: str, api: UnixServer) -> Iterator[Proxy]:
    idle = {"nginx": "keepalive_timeout {}s; # less", "caddy": "keepalive {}s"}[name]
    changes = {idle.format(60): idle.format(PROXY_IDLE)}
    with Proxy(name, api.socket.parent, changes=changes) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def impatient_proxy(name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """The same with short limits, and without an API."""
    changes = {"10s": "1s", "60s": "1s"} | ({"20s": "1s"} if name == "caddy" else {})
    with Proxy(name, tmp_path_factory.mktemp(name), changes=changes) as proxy:
        yield proxy


@pytest.fixture
def ada(api: UnixServer, proxy: Proxy) -> Iterator[httpx2.Client]:
    """Ada, who is signed in."""
    with sign_in(api, "ada") as signed_in:
        token = signed_in.headers["Authorization"]
    with proxy.client(Authorization=token) as client:
        yield client


def test_links_have_the_address_that_clients_use(proxy: Proxy, ada: httpx2.Client) -> None:
    task = create(ada)
    create(ada)

    page = ada.get("/tasks?limit=1")

    assert page.json() == [task]
    link = f'<{proxy.url}/tasks?limit=1&after={task["id"]}>; rel="next"'
    assert page.headers["Link"] == link


def test_http_is_redirected_to_https(proxy: Proxy) -> None:
    answer = httpx2.get(f"http://localhost:{proxy.http_port}/tasks?limit=1")

    location = httpx2.URL(answer.headers["Location"])
    assert answer.status_code == 308
    assert location.copy_with(port=None) == "https://localhost/tasks?limit=1"


def test_the_api_works_below_a_path(name: str, tmp_path: Path) -> None:
    with (
        UnixServer(tmp_path, "--root-path", "/todo"),
        Proxy(name, tmp_path, prefix="/todo") as proxy,
        proxy.client() as client,
    ):
        created = client.post("/todo/tasks", json={"title": "Write the report"})
        client.post("/todo/tasks", json={"title": "Read the report"})
        page = client.get("/todo/tasks?limit=1")
        docs = client.get("/todo/", follow_redirects=True)
        script = client.get("/todo/swagger/swagger-ui-bundle.js")
        document = client.get("/todo/openapi.json")
        read = client.get(created.headers["Location"])
        outside = client.get("/health")

    assert created.headers["Location"] == "/todo/tasks/1"
    assert page.headers["Link"] == f'<{proxy.url}/todo/tasks?limit=1&after=1>; rel="next"'
    assert (docs.status_code, docs.url.path) == (200, "/todo/docs")
    assert script.status_code == 200
    assert document.json()["servers"] == [{"url": "."}]
    assert read.json() == created.json()
    assert outside.status_code == 404


def test_a_client_cannot_choose_its_address(proxy: Proxy) -> None:
    def guess(client: httpx2.Client, number: int) -> httpx2.Response:
        form = {"username": "ada", "password": "wrong"}
        return client.post("/token", data=form, headers={"X-Forwarded-For": f"192.0.2.{number}"})

    with proxy.client("127.0.0.2") as client, proxy.client("127.0.0.3") as other:
        answers = [guess(client, number) for number in range(11)]
        of_other = guess(other, 1)

    assert [answer.status_code for answer in answers] == [401] * 10 + [429]
    assert answers[-1].json() == {"detail": "Too many wrong passwords for this name"}
    assert of_other.status_code == 401


def flood(client: httpx2.Client) -> list[httpx2.Response]:
    """Ask for more tokens than one address may, with forms that cost the API no password."""
    return [client.post("/token", json={}) for _ in range(20)]


@pytest.mark.parametrize("name", ["nginx"], indirect=True)
def test_nginx_limits_the_rate_of_sign_in_for_each_address(proxy: Proxy) -> None:
    with proxy.client("127.0.0.4") as client, proxy.client("127.0.0.5") as other:
        answers = flood(client)
        elsewhere = client.get("/health")
        of_other = other.post("/token", json={})

    refused = answers[-1]
    assert [answer.status_code for answer in answers[:11]] == [415] * 11
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "10")
    assert refused.json() == {"detail": "Too many requests from this address"}
    assert elsewhere.status_code == 200
    assert of_other.status_code == 415


@pytest.mark.parametrize("name", ["nginx"], indirect=True)
def test_nginx_takes_an_ipv6_network_for_one_address(proxy: Proxy) -> None:
    with (
        proxy.client(**{"Test-Address": "2001:db8:0:1::1"}) as client,
        proxy.client(**{"Test-Address": "2001:db8:0:1:f000::2"}) as neighbour,
        proxy.client(**{"Test-Address": "2001:db8:0:2::1"}) as other,
    ):
        flood(client)

        assert neighbour.post("/token", json={}).status_code == 429
        assert other.post("/token", json={}).status_code == 415


@pytest.mark.parametrize("name", ["nginx"], indirect=True)
def test_nginx_limits_the_requests_of_an_address_at_once(proxy: Proxy) -> None:
    head = b"POST /tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
    with ExitStack() as connections, proxy.client() as client, proxy.client("127.0.0.6") as other:
        for _ in range(50):
            connections.enter_context(proxy.connect()).sendall(head)
        statuses = {client.get("/health").status_code for _ in range(100)}
        of_other = other.get("/health")

    assert 429 in statuses
    assert of_other.status_code == 200


def test_the_api_itself_refuses_a_body_over_its_limit(ada: httpx2.Client) -> None:
    headers = {"Content-Type": "application/json"}
    answer = ada.post("/tasks", content=b"x" * (1024 * 1024 + 1), headers=headers)

    assert answer.status_code == 413
    assert answer.json() == {"detail": "The body is over 1048576 bytes"}


def test_the_proxy_refuses_headers_that_are_too_large(ada: httpx2.Client) -> None:
    headers = {f"X-{number}": "x" * 4000 for number in range(16)}

    # As RFC 6585, 5 has it, and as nginx does.
    assert ada.get("/tasks", headers=headers).status_code in (431, 400)
    assert ada.get("/tasks").status_code == 200


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_proxy_does_not_wait_for_slow_headers(impatient_proxy: Proxy, scheme: str) -> None:
    with impatient_proxy.connect(scheme) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
        begin = time.monotonic()
        while not is_closed(connection):
            assert time.monotonic() - begin < 5
            connection.sendall(b"x")


def is_closed(connection: socket.socket) -> bool:
    """Return whether the other side closes a connection within a tenth of a second."""
    connection.settimeout(0.1)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:  # reset
        return True
    return True


def test_the_proxy_closes_connections_of_idle_clients(impatient_proxy: Proxy) -> None:
    with impatient_proxy.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(65536)
        assert not is_closed(connection)

        connection.settimeout(5)
        assert connection.recv(65536) == b""


def test_the_same_proxy_serves_when_the_api_is_started_again(name: str, tmp_path: Path) -> None:
    with (
        UnixServer(tmp_path) as first,
        Proxy(name, tmp_path) as proxy,
        proxy.client() as client,
        ThreadPoolExecutor(1) as threads,
    ):
        before = client.get("/health")
        first.process.terminate()
        first.process.wait(timeout=20)
        between = threads.submit(client.get, "/health")
        wait([between], timeout=1)
        with UnixServer(tmp_path):
            after = client.get("/health")
            between.result()

    assert (before.status_code, after.status_code) == (200, 200)
    assert between.result().status_code == {"nginx": 502, "caddy": 200}[name]  # Caddy waits


def test_no_request_meets_a_connection_that_the_api_closes(api: UnixServer, proxy: Proxy) -> None:
    with ExitStack() as connections:
        clients = [connections.enter_context(proxy.client()) for _ in range(20)]

        def post(number: int) -> httpx2.Response:
            return clients[number].post("/tasks", json={})

        at_once(20, post)
        time.sleep(PROXY_IDLE + 0.5)
        # A process that was busy closes what was idle too long before it reads what has come.
        api.process.send_signal(signal.SIGSTOP)
        end_of_pause = Timer(API_IDLE - PROXY_IDLE, api.process.send_signal, [signal.SIGCONT])
        end_of_pause.start()
        answers = at_once(20, post)
        end_of_pause.join()

    assert {answer.status_code for answer in answers} == {401}


def test_each_proxy_closes_a_connection_before_the_api_does() -> None:
    """With the values of the files, which the other tests make shorter."""
    of_nginx = re.findall(r"keepalive_timeout (\d+)s; # less", (DEPLOY / "nginx.conf").read_text())
    of_caddy = re.findall(r"keepalive (\d+)s", (DEPLOY / "Caddyfile").read_text())
    files = [file.read_text() for file in DEPLOY.iterdir() if file.is_file()]
    of_api = re.findall(r"--timeout-keep-alive\W+(\d+)", "".join(files))

    assert len(of_nginx) == len(of_caddy) == 1
    assert int(max(of_nginx + of_caddy, key=int)) + 10 <= int(min(of_api, key=int))
