"""The other ways to start the API, and an app that builds on it."""

import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest
from calls import SECRET_KEY
from servers import ROOT, ApiServer, environment, free_port

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("command", ["dev", "run"])
def test_the_commands_of_fastapi_start_the_api(
    empty_database: str, copy: Path, command: str
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [sys.executable, "-m", "fastapi", command, "--port", url.rpartition(":")[2]],
        cwd=copy,
        env=environment(empty_database),
    )
    try:
        for _ in range(300):
            try:
                answer = httpx2.get(f"{url}/ready")
            except httpx2.TransportError:
                assert process.poll() is None
                time.sleep(0.1)
            else:
                assert answer.json() == {"status": "ready"}
                return
        raise TimeoutError(url)
    finally:
        process.terminate()
        process.wait(timeout=20)


def test_an_image_has_all_that_the_app_imports(copy: Path) -> None:
    allowed = (ROOT / ".dockerignore").read_text().splitlines()

    run = [sys.executable, "-c", "import main, manage"]
    subprocess.run(run, cwd=copy, env=environment("sqlite:///tasks.db"), check=True)
    for name in ("api", "migrations", "pyproject.toml", "requirements.txt"):
        assert (copy / name).exists()
        assert f"!{name}" in allowed


def test_the_files_of_a_frontend_are_for_everyone(empty_database: str, tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist/index.html").write_text("<h1>Tasks</h1>")
    app = 'from main import app\n\napp.frontend("/app", directory="dist")\n'
    (tmp_path / "own.py").write_text(app)
    settings = {"SECRET_KEY": SECRET_KEY, "PYTHONPATH": str(ROOT)}

    with (
        ApiServer(tmp_path, empty_database, app="own:app", app_dir=tmp_path, **settings) as server,
        server.client() as client,
    ):
        for path in ("/app/", "/app/index.html", "/app/?page=2"):
            answer = client.get(path)
            assert (answer.status_code, answer.text) == (200, "<h1>Tasks</h1>")
        assert client.get("/app/other.js").status_code == 404
        assert client.post("/app/").headers["Allow"] == "GET, HEAD"
        assert client.get("/tasks").status_code == 401
