"""A real server on this machine, which breaks the connection where a test says so."""

import hashlib
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random

import pytest
from disk import full_disk

from llm.data import download as module
from llm.data.download import cache_folder, download, download_sms
from llm.utils.errors import InputError

CONTENT = Random(1).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    content = CONTENT
    length = True  # does it say Content-Length?
    break_after = None  # bytes after which an answer breaks off
    meet = None  # a barrier at which each answer waits for the others
    status = None  # answer this instead

    def handle_error(self, *_):
        pass


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.asked += 1
        if server.status:
            self.send_error(server.status)
            return
        self.send_response(200)
        if server.length:
            self.send_header("Content-Length", str(len(server.content)))
        self.end_headers()
        self.wfile.write(server.content[: server.break_after])
        if server.meet:
            server.meet.wait(20)
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server(("127.0.0.1", 0), Handler)
    server.asked = 0
    server.url = f"http://127.0.0.1:{server.server_address[1]}/file.zip"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def fetch(server, folder, sha256=SHA256):
    return download(server.url, folder / "file.zip", sha256, "read a book")


@pytest.mark.parametrize("length", [True, False])
def test_a_file_arrives_whole_and_is_not_fetched_twice(server, tmp_path, capfd, length):
    server.length = length
    folder = tmp_path / "new" / "folder"
    assert fetch(server, folder).read_bytes() == CONTENT
    assert fetch(server, folder).read_bytes() == CONTENT
    assert server.asked == 1
    assert os.listdir(folder) == ["file.zip"]
    assert capfd.readouterr() == ("", "")


def test_others_may_read_the_file(server, tmp_path):
    """A class may share a folder; temporary files are for their owner alone."""
    assert fetch(server, tmp_path).stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("length, message", [(True, "100000 bytes read"), (False, "hash")])
def test_of_a_broken_connection_nothing_is_left(server, tmp_path, length, message):
    server.length, server.break_after = length, 100_000
    with pytest.raises(InputError, match=f"cannot download .*{message}.*or else read a book"):
        fetch(server, tmp_path)
    assert os.listdir(tmp_path) == []
    server.break_after = None
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_another_file_than_expected_is_refused(server, tmp_path):
    with pytest.raises(InputError, match="hash.*0000.*or else read a book") as caught:
        fetch(server, tmp_path, sha256="0" * 64)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_damaged_file_is_fetched_again_and_kept_if_it_cannot_be(server, tmp_path):
    damaged = CONTENT[:-1] + b"?"
    (tmp_path / "file.zip").write_bytes(damaged)
    server.status = 503
    with pytest.raises(InputError, match="503"):
        fetch(server, tmp_path)
    assert (tmp_path / "file.zip").read_bytes() == damaged
    server.status = None
    assert fetch(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [404, 500, 503])
def test_a_refusal_is_one_line(server, tmp_path, status):
    server.status = status
    with pytest.raises(InputError, match=f"cannot download .*{status}") as caught:
        fetch(server, tmp_path)
    assert "\n" not in str(caught.value)


def test_without_a_network_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_DATA", str(tmp_path))
    monkeypatch.setattr(module, "SMS_URL", "http://127.0.0.1:9/sms.zip")  # nobody listens there
    with pytest.raises(InputError, match="refused.*give that file as the data"):
        download_sms(quiet=True)


@pytest.mark.parametrize("url", ["http://[", "nonsense", "http://no-such-host.invalid/"])
def test_a_bad_address_is_one_line(tmp_path, url):
    with pytest.raises(InputError, match="cannot download") as caught:
        download(url, tmp_path / "x", SHA256)
    assert "\n" not in str(caught.value)


def test_two_runs_at_once_each_get_it_whole(server, tmp_path):
    server.meet = threading.Barrier(3)  # all are in the middle of it at the same time
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(fetch(server, tmp_path))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes() for path in results] == [CONTENT] * 3
    assert os.listdir(tmp_path) == ["file.zip"]


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot create the folder"):
        fetch(server, tmp_path / "file" / "below")
    (tmp_path / "file.zip").mkdir()
    with pytest.raises(InputError, match="cannot write .*file.zip: is a directory"):
        fetch(server, tmp_path)


def test_a_full_disk_is_one_line_and_leaves_nothing(server, tmp_path):
    with (
        full_disk(100_000),
        pytest.raises(InputError, match="cannot write .*file.zip: file too large; .*set LLM_DATA"),
    ):
        fetch(server, tmp_path)
    assert os.listdir(tmp_path) == []


def test_the_environment_says_where_downloads_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("LLM_DATA", str(tmp_path / "a"))
    assert cache_folder() == tmp_path / "a"


@pytest.mark.skipif(sys.platform != "linux", reason="each system has its own place")
def test_else_they_are_kept_in_the_cache_of_the_user(monkeypatch, tmp_path):
    monkeypatch.delenv("LLM_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_folder() == tmp_path / "b" / "llm-lora-lessons"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "c"))
    assert cache_folder() == tmp_path / "c" / ".cache" / "llm-lora-lessons"
