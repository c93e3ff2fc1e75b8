"""The app starts, once for a data folder, where there is room for it; and shows every page quietly."""

import ast
import json
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import browser
import pytest
from pydantic_core._pydantic_core import list_all_errors

from videodiff.errors import OutOfResources, UserError
from videodiff_ui import html, window, words
from videodiff_ui.server import Options, free_port
from videodiff_ui.single import Single

PAGES = ("make", "edit", "restore", "library", "models", "train", "evaluate", "system")


# ---------------------------------------------------------------------------------------------------------------------
# One server for a folder, on a port that is free


def test_the_page_answers_and_the_server_has_no_network_in_it(app: Any) -> None:
    """The server's process never loads torch: that is the worker's."""
    maps = Path(f"/proc/{app.process.pid}/maps")
    if not maps.exists():
        pytest.skip("needs /proc to look into a process")
    assert "libtorch" not in maps.read_text()
    assert "videodiff runs at http://127.0.0.1:" in app.log.read_text()


def test_a_second_server_on_one_folder_names_the_first(app: Any) -> None:
    """It says where the first is and ends well."""
    command = [sys.executable, "-m", "videodiff", "ui", "--data", str(app.data), "--no-open"]
    second = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert second.returncode == 0, second.stderr
    assert second.stdout.strip() == f"videodiff already runs on {app.data}: {app.url}/"


def test_a_killed_server_leaves_no_stale_lock(serve: Callable[..., Any]) -> None:
    """After a kill the next server starts on the same folder, whatever the old note says."""
    first = serve()
    first.kill()
    assert json.loads((first.data / "server.json").read_text())["pid"] == first.process.pid
    second = serve(data=first.data)
    assert second.process.poll() is None
    second.stop()
    assert not (first.data / "server.json").exists()


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    """Taken by one, refused to the other, free again after it."""
    one, two = Single(tmp_path), Single(tmp_path)
    assert one.take()
    assert not two.take()
    assert two.other() is None  # it has not said where it is yet
    one.tell("http://127.0.0.1:7860/")
    assert two.other() == "http://127.0.0.1:7860/"
    one.release()
    assert two.take()


def test_a_port_that_is_taken_is_passed_over(serve: Callable[..., Any]) -> None:
    """The next free port is used, and said."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        app = serve("--port", str(port))
        assert f"port {port} is taken; using " in app.log.read_text()
        used = int(app.url.rsplit(":", 1)[1])
        assert port < used < port + 100


def test_a_proxy_does_not_stand_before_the_server(serve: Callable[..., Any]) -> None:
    """Where all traffic has to go by a proxy, the app still finds itself."""
    nowhere = "http://127.0.0.1:9"
    app = serve(environment=dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"), nowhere))
    assert app.process.poll() is None


def test_no_port_at_all_is_an_error_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred ports are tried."""

    def refuse(self: socket.socket, address: tuple[str, int]) -> None:
        raise OSError("taken")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(OutOfResources, match="--port"):
        free_port("127.0.0.1", 7860)


@pytest.mark.parametrize("options", [{"share": True}, {"host": "0.0.0.0"}, {"host": "192.168.1.5"}])
def test_others_are_let_in_only_with_a_password(options: dict[str, Any]) -> None:
    """A share link and every address but this machine's own need one."""
    with pytest.raises(UserError, match="--password"):
        Options(**options)
    Options(**options, password="of one's own")


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 7, and what to install."""
    from videodiff import cli

    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    assert cli.run(["ui"]) == 7
    assert "videodiff[ui]" in capsys.readouterr().err


def test_nothing_of_the_last_server_stays_in_the_cache(serve: Callable[..., Any], tmp_path: Path) -> None:
    """What was uploaded and not used goes at the next start; results stay."""
    data = tmp_path / "data"
    for left in (data / "cache/gradio/abc/left.mp4", data / "results/kept/kept.mp4"):
        left.parent.mkdir(parents=True)
        left.write_bytes(b"left")
    serve(data=data)
    assert not (data / "cache/gradio/abc").exists()
    assert (data / "results/kept/kept.mp4").exists()


# ---------------------------------------------------------------------------------------------------------------------
# The window


def test_a_window_has_its_own_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A Chromium-family browser is started as an app; without one, or when asked for, a tab is opened."""
    ran, tabs = [], []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: ran.append(command))
    monkeypatch.setattr("webbrowser.open", lambda url: tabs.append(url) or True)
    monkeypatch.setattr(window, "browser", lambda: "chromium")
    assert window.show("http://127.0.0.1:1/", tmp_path / "profile")
    assert ran[0][:3] == ["chromium", "--app=http://127.0.0.1:1/", f"--user-data-dir={tmp_path / 'profile'}"]
    window.show("http://127.0.0.1:1/", tmp_path / "profile", tab=True)
    monkeypatch.setattr(window, "browser", lambda: None)
    window.show("http://127.0.0.1:2/", tmp_path / "profile")
    assert tabs == ["http://127.0.0.1:1/", "http://127.0.0.1:2/"]
    assert len(ran) == 1


def test_it_can_be_installed_as_an_app_of_the_browser(app: Any) -> None:
    """The manifest names it and its icons, which are there."""
    with urllib.request.urlopen(f"{app.url}/manifest.json") as answer:
        manifest = json.load(answer)
    assert manifest["name"] == "videodiff"
    with urllib.request.urlopen(f"{app.url}/pwa_icon/192") as answer:
        assert answer.read(8) == b"\x89PNG\r\n\x1a\n"


# ---------------------------------------------------------------------------------------------------------------------
# The pages


@pytest.mark.parametrize("language", ["en", "ko"])
def test_every_page_opens(page: Any, language: str) -> None:
    """In both languages; `page` itself sees to it that nothing fails and nothing is asked of another host."""
    if language == "ko":
        to_korean(page)
    for name in PAGES:
        browser.tab(page, name, language)


def to_korean(page: Any) -> None:
    """Switch the language by the button of the page, and wait until it is another one."""
    page.click("#vd-language")
    page.wait_for_selector("html[lang=ko]")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280, 3840])
def test_no_page_is_wider_than_the_window(app: Any, chromium: Any, width: int, theme: str) -> None:
    """From a telephone to 4K nothing has to be scrolled sideways, in either language."""
    beyond = """() => Math.max(...['html', '.gradio-container']  // which hides what is too wide for it
        .map((name) => document.querySelector(name)).map((e) => e.scrollWidth - e.clientWidth))"""
    with browser.opened(chromium, app.url, viewport={"width": width, "height": 900}, color_scheme=theme) as page:
        assert page.evaluate("document.body.classList.contains('dark')") == (theme == "dark")
        for language in ("en", "ko"):
            if language == "ko":
                to_korean(page)
            for name in PAGES:
                browser.tab(page, name, language)
                wide = page.evaluate(beyond)
                assert wide <= 0, f"{name} in {language} is {wide} px too wide at {width}"
        page.watched.quiet()


def test_a_page_says_that_its_server_is_gone_and_offers_the_next_one(serve: Callable[..., Any], chromium: Any) -> None:
    """It says nothing while all is well, and takes back what it said when its own server answers again."""
    first = serve()
    with browser.opened(chromium, first.url, viewport={"width": 360, "height": 800}) as page:
        lines = page.locator(".vd-lost [data-lost]").locator("visible=true")
        assert lines.count() == 0
        page.context.set_offline(True)
        lines.filter(has_text=words.text("server.away")).wait_for()
        page.context.set_offline(False)
        lines.wait_for(state="hidden")
        to_korean(page)
        first.stop()
        lines.filter(has_text=words.text("server.away", "ko")).wait_for()
        serve("--port", first.url.rsplit(":", 1)[1], data=first.data)
        lines.filter(has_text=words.text("server.anew", "ko")).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
        page.click("#vd-load")
        page.wait_for_selector(".vd-lost [data-lost=anew]", state="hidden")
        browser.tab(page, "library", "ko")
        assert lines.count() == 0


def test_theme_and_language_are_kept(page: Any) -> None:
    """Both switches work at once and after a reload."""
    before = page.evaluate("document.body.classList.contains('dark')")
    page.click("#vd-theme")
    page.click("#vd-language")
    for _ in range(2):
        page.wait_for_selector("html[lang=ko]")
        page.wait_for_selector(f"#vd-tabs button[role=tab]:text-is('{words.text('tab_edit', 'ko')}')")
        assert page.evaluate("document.body.classList.contains('dark')") != before
        page.reload()


def test_a_reader_of_korean_reads_korean(page: Any) -> None:
    """Help, choices and messages of the library; and English again on switching back."""
    missing = "there is no clip yet; drop one on the left, or pick one from the history"
    for language, told in (("ko", "아직 클립이 없습니다. 왼쪽에 클립을 놓거나 기록에서 고르세요"), ("en", missing)):
        page.click("#vd-language")
        page.wait_for_selector(f"html[lang={language}]")
        for control, key in (("steps", "help.steps"), ("direction", "choice.direction.backward")):
            said = words.text(key, language)
            page.locator(f"#vd-field-{control}").filter(has_text=said).wait_for()
        page.click("#vd-run")
        page.locator(f"[data-testid=toast-text]:text-is('{told}')").wait_for()
        page.locator(f".toast-title:text-is('{words.text('toast.error', language)}')").wait_for()


def test_every_message_is_said_by_its_own_pattern(page: Any) -> None:
    """Filled with values, each comes back as its translation; what no pattern knows stays, and stays text."""
    page.click("#vd-language")
    page.wait_for_selector("html[lang=ko]")
    messages = json.loads((words.FOLDER / "messages/ko.json").read_text(encoding="utf-8"))
    filled = [[re.sub(r"\{(\w+)\}", r"<\1>", text) for text in pair] for pair in messages.items()]
    said = page.evaluate("(texts) => texts.map(videodiff.message)", [english for english, _ in filled])
    for (english, korean), found in zip(filled, said, strict=True):
        assert found == words.plain(korean, "ko"), english
    for message, expected in (
        (
            "predict: guidance: input should be less than or equal to 20 (given '30')",
            "예측: 가이던스: 20 이하여야 합니다 (입력값 '30')",
        ),
        ("skipped done: listed, but not there", "done 건너뜀: 목록에 있지만 파일이 없습니다"),
        ("<b>--frames</b> of nothing we know", "<b>“새 프레임 수”</b> of nothing we know"),
    ):
        assert page.evaluate("videodiff.message", message) == expected


def test_controls_have_names(page: Any) -> None:
    """Whatever can be pressed or filled in has a name a screen reader can say."""
    nameless = """() => [...document.querySelectorAll('button, input, textarea, select')]
        .filter((e) => e.offsetParent !== null && e.type !== 'hidden')
        .filter((e) => !(e.textContent.trim() || e.getAttribute('aria-label') || e.title || e.placeholder ||
                         e.labels?.length || e.getAttribute('aria-labelledby')))
        .map((e) => e.outerHTML.slice(0, 200))"""
    for name in PAGES:
        browser.tab(page, name)
        assert page.evaluate(nameless) == [], name


# ---------------------------------------------------------------------------------------------------------------------
# Words


def test_both_languages_say_the_same() -> None:
    """The same keys, with the same places for values."""
    assert words.LOCALES["en"].keys() == words.LOCALES["ko"].keys()
    for key, english in words.LOCALES["en"].items():
        korean = words.LOCALES["ko"][key]
        assert set(re.findall(r"\{(\w+)", english)) == set(re.findall(r"\{(\w+)", korean)), key


PLACE = "\0"
"""What a value is put in for, in a string of the source."""


def source_strings() -> set[str]:
    """Every string of the library and the app with its places, and those of pydantic as `first_problem` words them."""
    found = {
        re.sub(r"\{.*?\}", PLACE, text[0].lower() + text[1:])
        for text in (error["message_template_python"] for error in list_all_errors())
    }
    for file in [*(UI.parents[1] / "videodiff").rglob("*.py"), *UI.rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(str(v.value) if isinstance(v, ast.Constant) else PLACE for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


@pytest.mark.parametrize("file", sorted((Path(words.__file__).parent / "locales/messages").glob("*.json")))
def test_messages_are_those_of_the_source(file: Path) -> None:
    """Each is one that is written there now, its places where values are put in, the same in both languages."""
    assert file.stem in words.LOCALES
    written = source_strings()
    for english, other in json.loads(file.read_text(encoding="utf-8")).items():
        texts = re.split(r"\{(\w+)\}", english)
        assert sorted(texts[1::2]) == sorted(re.findall(r"\{(\w+)\}", other)), english
        pattern = re.compile(f"[^{PLACE}]*{PLACE}.*?".join(map(re.escape, texts[::2])), re.DOTALL)
        assert any(map(pattern.fullmatch, written)), f"no message reads {english!r}"


UI = Path(words.__file__).parent
SHOWN = {"label", "info", "placeholder", "submit_btn", "stop_btn"}
"""What Gradio's components show of their arguments."""


def calls() -> list[tuple[str, ast.Call]]:
    """(file, call) of every call in the app's modules."""
    found = []
    for file in sorted(UI.glob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        found += [(file.name, node) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return found


def name_of(call: ast.Call) -> str:
    """The last part of what is called."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def test_every_key_used_has_its_text() -> None:
    """Keys that are written out, and for those that are made of parts at least one text that begins so."""
    keys = words.LOCALES["en"]
    for file, call in calls():
        if name_of(call) not in ("_", "word", "text") or not call.args:
            continue
        key = call.args[0]
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            assert key.value in keys, f"{file}:{call.lineno} uses {key.value!r}, which no locale has"
        elif isinstance(key, ast.JoinedStr) and isinstance(key.values[0], ast.Constant):
            start = str(key.values[0].value)
            assert any(k.startswith(start) for k in keys), f"{file}:{call.lineno}: no text begins with {start!r}"


def test_widgets_use_texts_that_exist() -> None:
    """`videodiff.word("key")` in static files."""
    for file in sorted((UI / "static").glob("*.js")):
        for key in re.findall(r"""videodiff\.word\(\s*["']([\w.]+)["']""", file.read_text(encoding="utf-8")):
            assert key in words.LOCALES["en"], f"{file.name} uses {key!r}"


def test_no_label_is_written_into_a_page() -> None:
    """What a component shows comes from the locales."""
    for file, call in calls():
        shown = [k.value for k in call.keywords if k.arg in SHOWN]
        if name_of(call) in ("Button", "Tab", "Accordion", "DownloadButton", "UploadButton", "Markdown"):
            shown += call.args[:1]
        for value in shown:
            plain = (
                isinstance(value, ast.Constant) and isinstance(value.value, str) and re.search(r"[A-Za-z]", value.value)
            )
            assert not plain, f"{file}:{call.lineno} shows {ast.unparse(value)} in English alone"


def test_markup_is_made_in_one_place() -> None:
    """No other module writes tags, so nothing it shows is unescaped."""
    for file in sorted(UI.glob("*.py")):
        if file.name == "html.py":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and name_of(node) == "Html":
                assert all(isinstance(a, ast.Constant) and a.value == "" for a in node.args), (
                    f"{file.name}:{node.lineno}"
                )


# ---------------------------------------------------------------------------------------------------------------------
# HTML


def test_all_text_is_escaped() -> None:
    """Whatever is put in, only what the module itself made is markup."""
    nasty = "<img src=x onerror=alert(1)>\"'&"
    made = html.tag("p", nasty, html.tag("b", nasty), title=nasty, data_x=nasty)
    assert "<img" not in made
    assert made.count("&lt;img src=x onerror=alert(1)&gt;") == 4
    assert html.tag("p", None, 0, hidden=True, title=None, open=False) == "<p hidden>0</p>"


@pytest.mark.parametrize(
    "address", ["javascript:alert(1)", "//evil.example/x", "https://evil.example", "data:text/html,x"]
)
def test_no_address_leads_outside(address: str) -> None:
    """Links and pictures are of this server."""
    with pytest.raises(AssertionError):
        html.tag("a", "x", href=address)


@pytest.mark.parametrize("name", ["script", "iframe", "p onclick=x", "style"])
def test_no_element_carries_code(name: str) -> None:
    """Code is in static files."""
    with pytest.raises(AssertionError):
        html.tag(name)
    with pytest.raises(AssertionError):
        html.tag("p", onclick="x")
