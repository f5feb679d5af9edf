"""A real server on this machine, which breaks the connection where a test says so."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random

import pytest

from llm.data import download as module
from llm.data.download import cache_folder, download, download_sms
from llm.utils.errors import InputError

CONTENT = Random(1).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    content = CONTENT
    ranges = True  # does it know Range?
    length = True  # does it say Content-Length?
    break_after = ()  # bytes after which each answer in turn breaks off
    hang = False  # after that many bytes, keep the connection open and send nothing
    status = None  # answer this instead

    def handle_error(self, *_):
        pass


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.asked.append(self.headers.get("Range"))
        if server.status:
            self.send_error(server.status)
            return
        asked, start = self.headers.get("Range"), 0
        if asked and server.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(server.content):
                self.send_error(416)
                return
            self.send_response(206)
            end = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        else:
            self.send_response(200)
        body = server.content[start:]
        if server.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        turn = len(server.asked) - 1
        stop = server.break_after[turn] if turn < len(server.break_after) else len(body)
        self.wfile.write(body[:stop])
        if server.hang:
            self.wfile.flush()
            server.reached.set()
            server.release.wait(20)
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server(("127.0.0.1", 0), Handler)
    server.asked, server.reached, server.release = [], threading.Event(), threading.Event()
    server.url = f"http://127.0.0.1:{server.server_address[1]}/file.zip"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()


def fetch(server, folder, **changes):
    arguments = {"sha256": SHA256, "size": len(CONTENT), **changes}
    return download(server.url, folder / "file.zip", **arguments)


@pytest.mark.parametrize("length", [True, False])
def test_a_file_arrives_whole_and_is_not_fetched_twice(server, tmp_path, length):
    server.length = length
    assert fetch(server, tmp_path / "new").read_bytes() == CONTENT
    assert fetch(server, tmp_path / "new").read_bytes() == CONTENT
    assert server.asked == [None]
    assert not list((tmp_path / "new").glob("*.part"))


@pytest.mark.parametrize("length", [True, False])
def test_a_broken_connection_is_taken_up_where_it_broke(server, tmp_path, length):
    server.length = length
    server.break_after = (100_000, 50_000)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]


def test_a_server_without_range_sends_everything_again(server, tmp_path):
    server.ranges = False
    server.break_after = (100_000,)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-"]


def test_killed_halfway_then_resumed(server, tmp_path):
    server.hang, server.break_after = True, (200_000,)
    code = (
        "import sys; from llm.data.download import download\n"
        f"download({server.url!r}, sys.argv[1], {SHA256!r}, {len(CONTENT)})"
    )
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", code, str(tmp_path / "file.zip")]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(root)})
    assert server.reached.wait(20)
    part = tmp_path / "file.zip.part"
    while not (part.exists() and part.stat().st_size >= 100_000):  # what came reaches the file
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "file.zip").exists()
    kept = part.stat().st_size
    server.hang = False
    server.release.set()
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={kept}-"]


@pytest.mark.parametrize("left", [b"something else", b"x" * 300_000, b"x" * 400_000])
def test_a_wrong_beginning_is_thrown_away(server, tmp_path, left):
    (tmp_path / "file.zip.part").write_bytes(left)
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_another_file_than_expected_is_refused(server, tmp_path):
    with pytest.raises(InputError, match="SHA-256 differs.*browser"):
        fetch(server, tmp_path, sha256="0" * 64)
    assert len(server.asked) == 1
    assert not (tmp_path / "file.zip").exists() and not (tmp_path / "file.zip.part").exists()


def test_no_more_is_written_than_the_file_has(server, tmp_path):
    server.content = CONTENT + bytes(10_000_000)
    assert fetch(server, tmp_path).stat().st_size == len(CONTENT)


def test_a_damaged_file_is_fetched_again(server, tmp_path):
    (tmp_path / "file.zip").write_bytes(CONTENT[:-1] + b"?")
    assert fetch(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [404, 500, 503])
def test_a_refusal_is_one_line(server, tmp_path, status):
    server.status = status
    with pytest.raises(InputError, match=f"answers {status}") as caught:
        fetch(server, tmp_path)
    assert "\n" not in str(caught.value)


def test_without_a_network_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_DATA", str(tmp_path))
    monkeypatch.setattr(module, "SMS_URL", "http://127.0.0.1:9/sms.zip")  # nobody listens there
    with pytest.raises(InputError, match="refused.*--data FILE.zip"):
        download_sms(quiet=True)
    for url in ("http://[", "nonsense", "http://no-such-host.invalid/"):
        with pytest.raises(InputError, match="cannot download"):
            download(url, tmp_path / "x", SHA256, 10)


def test_two_runs_at_once_fetch_it_once(server, tmp_path):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(fetch(server, tmp_path))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes() for path in results] == [CONTENT] * 3
    assert len(server.asked) == 1


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot create the folder"):
        fetch(server, tmp_path / "file" / "below")
    (tmp_path / "file.zip").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        fetch(server, tmp_path)


def test_a_full_disk_is_one_line_and_keeps_what_came(server, tmp_path):
    resource = pytest.importorskip("resource")
    code = (
        "import resource, signal, sys; from llm.data.download import download\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        f"download({server.url!r}, sys.argv[1], {SHA256!r}, {len(CONTENT)})"
    )
    assert resource.RLIMIT_FSIZE is not None
    command = [sys.executable, "-c", code, str(tmp_path / "file.zip")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (
        done.stderr.strip().splitlines()[-1].startswith("llm.utils.errors.InputError: cannot write")
    )
    assert not (tmp_path / "file.zip").exists()
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_where_downloads_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("LLM_DATA", str(tmp_path / "a"))
    assert cache_folder() == tmp_path / "a"
    monkeypatch.delenv("LLM_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_folder() == tmp_path / "b" / "llm-lora-lessons"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "c"))
    assert cache_folder() == tmp_path / "c" / ".cache" / "llm-lora-lessons"
