"""What strangers try is refused: other hosts and sites, files that are not theirs, more than there is room for."""

import asyncio
import http.client
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import browser
import numpy as np
import pytest

from videodiff import video
from videodiff.errors import OutOfResources
from videodiff_ui.guard import Guard, Quota

Answer = tuple[int, dict[str, str], bytes]


def ask(app: Any, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
    """(status, headers, body) of one request, whose path and headers are sent exactly as given."""
    connection = http.client.HTTPConnection(urlsplit(app.url).netloc, timeout=60)
    connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
    if method == "POST":
        headers.setdefault("Content_Length", str(len(body)))
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders(body or None)
    answer = connection.getresponse()
    got = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    connection.close()
    return got


def form(name: str, data: bytes) -> tuple[bytes, str]:
    """A form with one file, and its content type."""
    head = f'--part\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    return head.encode() + data + b"\r\n--part--\r\n", "multipart/form-data; boundary=part"


def upload(app: Any, name: str, data: bytes, **headers: str) -> Answer:
    """Upload one file as a browser does."""
    body, kind = form(name, data)
    return ask(app, "POST", "/gradio_api/upload", body, Content_Type=kind, **headers)


def clip(folder: Path) -> Path:
    """A small clip."""
    path = folder / "clip.mp4"
    video.write(path, np.zeros((8, 16, 16, 3), np.uint8), fps=8)
    return path


# ---------------------------------------------------------------------------------------------------------------------
# Hosts and origins


@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/info", "/videodiff/static/app.js"])
@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "10.0.0.1", ""])
def test_a_foreign_host_is_refused(app: Any, path: str, host: str) -> None:
    """A site that rebinds its name to this machine gets nothing."""
    assert ask(app, "GET", path, Host=host)[0] == 400


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_our_own_names_are_answered(app: Any, host: str) -> None:
    """With the port, as browsers send it."""
    assert ask(app, "GET", "/config", Host=f"{host}:{urlsplit(app.url).port}")[0] == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost"])
@pytest.mark.parametrize("path", ["/gradio_api/upload", "/gradio_api/queue/join", "/login", "/gradio_api/cancel"])
def test_a_foreign_origin_changes_nothing(app: Any, path: str, origin: str) -> None:
    """Not even another server of this machine may post."""
    assert ask(app, "POST", path, b"{}", Origin=origin, Content_Type="application/json")[0] == 403


def test_a_form_of_another_site_is_refused_by_its_fetch_site(app: Any) -> None:
    """Browsers that leave the origin out still say where a request comes from."""
    body, kind = form("a.mp4", b"x")
    got = ask(app, "POST", "/gradio_api/upload", body, Content_Type=kind, Sec_Fetch_Site="cross-site")
    assert got[0] == 403


def test_our_own_page_and_programs_may_upload(app: Any) -> None:
    """With our origin, or with none as gradio_client."""
    assert upload(app, "a.mp4", b"x", Origin=app.url)[0] == 200
    assert upload(app, "a.mp4", b"x")[0] == 200


def test_every_answer_carries_the_headers(app: Any) -> None:
    """Refusals as well."""
    for got in (
        ask(app, "GET", "/"),
        ask(app, "GET", "/videodiff/static/app.js"),
        ask(app, "GET", "/config", Host="evil.example"),
        ask(app, "GET", "/gradio_api/file=/etc/passwd"),
        upload(app, "a.mp4", b"x", Origin="null"),
    ):
        headers = got[1]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'self'" in headers["content-security-policy"]
        assert "http" not in headers["content-security-policy"]


# ---------------------------------------------------------------------------------------------------------------------
# Files


def served(app: Any, path: str) -> int:
    """The status of asking for a file by its path."""
    return ask(app, "GET", f"/gradio_api/file={path}")[0]


def test_files_of_the_machine_are_refused(app: Any, tmp_path: Path) -> None:
    """System files, ways up, links that lead out, the table of jobs, and the source of this project."""
    results = app.data / "results"
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    link = results / "link.txt"
    link.symlink_to(secret)
    try:
        assert served(app, "/etc/passwd") == 403
        assert served(app, f"{results}/../../../../../../../../etc/passwd") == 403
        assert served(app, f"{results}/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd") == 403
        assert served(app, str(link)) == 403
        assert served(app, str(app.data / "jobs.sqlite")) == 403
        assert served(app, str(app.data / "server.log")) == 403
        assert served(app, str(browser.ROOT / "pyproject.toml")) == 403
    finally:
        link.unlink()


def test_a_result_is_served_in_place_and_in_parts(app: Any) -> None:
    """Players ask for ranges; nothing is copied."""
    made = app.data / "results" / "made" / "clip.mp4"
    made.parent.mkdir()
    clip(made.parent)
    assert served(app, str(made)) == 200
    status, headers, body = ask(app, "GET", f"/gradio_api/file={made}", Range="bytes=0-9")
    assert (status, len(body)) == (206, 10)
    assert headers["x-content-type-options"] == "nosniff"
    assert not list((app.data / "cache").rglob("clip.mp4"))


def test_addresses_are_neither_fetched_nor_redirected_to(app: Any) -> None:
    """The server is no way to other servers."""
    assert served(app, "http://127.0.0.1:1/") == 403
    assert served(app, "https://evil.example/") == 403
    assert ask(app, "GET", "/gradio_api/proxy=http://127.0.0.1:1/x")[0] == 400


def test_uploaded_pages_are_not_shown_as_pages(app: Any) -> None:
    """HTML comes back as a download, under its base name."""
    status, _, body = upload(app, "../../x.html", b"<script>alert(1)</script>")
    assert status == 200
    path = Path(json.loads(body)[0])
    assert path.is_relative_to(app.data / "cache" / "gradio")
    assert path.name == "x.html"
    headers = ask(app, "GET", f"/gradio_api/file={quote(str(path))}")[1]
    assert headers["content-disposition"].startswith("attachment")


def test_what_is_switched_off_stays_off(app: Any) -> None:
    """Monitoring, histories of runs, docs, reloading; and nothing of the app names an outside host to the browser."""
    assert ask(app, "GET", "/monitoring")[0] == 403
    assert ask(app, "GET", "/gradio_api/runs")[0] == 404
    assert ask(app, "GET", "/docs")[0] == 404
    assert ask(app, "GET", "/redoc")[0] == 404
    config = json.loads(ask(app, "GET", "/config")[2])
    assert config["analytics_enabled"] is False
    assert config["enable_queue"] is True
    assert config["space_id"] is None


def test_gradios_environment_is_not_heard(serve: Callable[..., Any]) -> None:
    """Variables that would open files, names or a share link change nothing."""
    app = serve(
        environment={
            "GRADIO_ALLOWED_PATHS": "/etc",
            "GRADIO_SHARE": "True",
            "GRADIO_SERVER_NAME": "0.0.0.0",
            "GRADIO_ANALYTICS_ENABLED": "True",
            "GRADIO_RUN_HISTORY": "True",
            "GRADIO_MCP_SERVER": "True",
            "GRADIO_TEMP_DIR": "/",
        }
    )
    assert served(app, "/etc/passwd") == 403
    assert ask(app, "GET", "/gradio_api/runs")[0] == 404
    config = json.loads(ask(app, "GET", "/config")[2])
    assert config["analytics_enabled"] is False
    assert not config.get("mcp_server")
    listening = Path("/proc/net/tcp").read_text() if Path("/proc/net/tcp").exists() else ""
    assert f"00000000:{urlsplit(app.url).port:04X}" not in listening


# ---------------------------------------------------------------------------------------------------------------------
# Sizes


def test_an_oversize_upload_is_refused_before_it_is_read(serve: Callable[..., Any]) -> None:
    """By its stated length; an upload without one is not taken at all."""
    app = serve("--max-upload", "1")
    assert upload(app, "small.mp4", bytes(900_000))[0] == 200
    claimed = ask(app, "POST", "/gradio_api/upload", Content_Length="50000000", Content_Type=form("a", b"")[1])
    assert claimed[0] == 413
    # The form leaves some room around its file; within it Gradio's own count of the file decides.
    assert upload(app, "large.mp4", bytes(1_050_000))[0] == 413
    chunked = ask(app, "POST", "/gradio_api/upload", Transfer_Encoding="chunked", Content_Length="x")
    assert chunked[0] in (400, 411)
    both = ask(app, "POST", "/gradio_api/upload", Transfer_Encoding="chunked", Content_Length="10")
    assert both[0] in (400, 411)
    for header in ({"Content_Length": "50000000"}, {"Transfer_Encoding": "chunked"}):
        assert ask(app, "POST", "/gradio_api/queue/join", **header)[0] == 413


def test_twenty_uploads_at_once_stay_within_the_quota(serve: Callable[..., Any]) -> None:
    """Of twenty times 1 MB against 5 MB some are taken and the rest are refused cleanly; the disk never holds more."""
    app = serve("--quota", "0.005")
    file = bytes(1_000_000)

    def one(number: int) -> int:
        return upload(app, f"{number}.mp4", file + bytes([number]))[0]

    def stored() -> int:
        return sum(f.stat().st_size for f in (app.data / "cache" / "gradio").rglob("*") if f.is_file())

    with ThreadPoolExecutor(20) as pool:
        statuses = list(pool.map(one, range(20)))
    assert set(statuses) <= {200, 413}
    assert 1 <= statuses.count(200) <= 4
    assert stored() <= 5_000_000
    while one(99 - statuses.count(200)) == 200:  # one after another they fill what is left, and no more
        statuses.append(200)
        assert stored() <= 5_000_000
    assert ask(app, "GET", "/config")[0] == 200


def test_room_is_given_back_whatever_becomes_of_an_upload(tmp_path: Path) -> None:
    """An upload that fails, or is cut off, leaves the quota as it was."""

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise ConnectionResetError

    async def send(message: Any) -> None:
        return None

    def check(wanted: int) -> None:
        if wanted > 1000:
            raise OutOfResources

    quota = Quota(1000, check)
    guard = Guard(failing, {"localhost"}, False, quota, 10_000, False)
    headers = [(b"host", b"localhost"), (b"content-length", b"900")]
    scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "headers": headers}
    for _ in range(3):
        with pytest.raises(ConnectionResetError):
            asyncio.run(guard(scope, None, send))  # type: ignore[arg-type]
    assert quota.take(1000)
    assert not quota.take(1)


# ---------------------------------------------------------------------------------------------------------------------
# Passwords


def test_with_a_password_nothing_is_told_without_it(serve: Callable[..., Any]) -> None:
    """Pages, files, uploads and endpoints ask for it; a wrong one is refused."""
    app = serve("--password", "correct horse")
    made = app.data / "results" / "clip.mp4"
    clip(made.parent)
    assert ask(app, "GET", "/config")[0] == 401
    assert served(app, str(made)) == 401
    assert upload(app, "a.mp4", b"x")[0] == 401
    wrong = b"username=videodiff&password=wrong"
    right = b"username=videodiff&password=correct+horse"
    kind = "application/x-www-form-urlencoded"
    assert ask(app, "POST", "/login", wrong, Content_Type=kind)[0] == 400
    status, headers, _ = ask(app, "POST", "/login", right, Content_Type=kind)
    assert status == 200
    cookie = headers["set-cookie"].split(";")[0]
    assert ask(app, "GET", "/config", Cookie=cookie)[0] == 200


# ---------------------------------------------------------------------------------------------------------------------
# Nothing goes outside


def test_the_server_asks_no_name_of_the_network(tmp_path: Path) -> None:
    """From start to the first page every name that is looked up is this machine's."""
    spy = tmp_path / "spy"
    spy.mkdir()
    (spy / "sitecustomize.py").write_text(
        "import sys\n"
        "def hook(event, arguments):\n"
        "    if event == 'socket.getaddrinfo' or (event == 'socket.connect' and isinstance(arguments[1], tuple)):\n"
        f"        with open({str(tmp_path / 'asked')!r}, 'a') as file:\n"
        "            host = arguments[0] if event == 'socket.getaddrinfo' else arguments[1][0]\n"
        "            print(host.decode() if isinstance(host, bytes) else host, file=file)\n"
        "sys.addaudithook(hook)\n"
    )
    path = os.pathsep.join((str(spy), str(browser.ROOT), str(browser.ROOT / "ui")))
    app = browser.start(tmp_path / "data", environment={"PYTHONPATH": path})
    try:
        assert ask(app, "GET", "/")[0] == 200
    finally:
        app.stop()
    asked = set((tmp_path / "asked").read_text().split())
    assert asked <= {"127.0.0.1", "localhost", "::1", "None"}, asked
    assert asked, f"the hook heard nothing ({sys.version})"
