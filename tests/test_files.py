import json
import os
import subprocess
import sys

import pytest
import torch
from disk import full_disk

from llm.utils.errors import InputError, reason
from llm.utils.files import (
    locked_folder,
    open_tensors,
    read_json,
    read_tensors,
    sha256_of_file,
    whole_file,
    write_json,
    write_tensors,
    write_text,
)


def test_a_failure_while_writing_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    with pytest.raises(TypeError):
        write_json(path, {"new": object()})
    assert read_json(path) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_text(path, "x" * 5000),
        lambda path: write_tensors(path, {"x": torch.zeros(5000)}),
    ],
    ids=["text", "tensors"],
)
def test_a_full_disk_is_one_line_and_the_old_file_stays(tmp_path, write):
    write_text(tmp_path / "a", "old")
    with full_disk(1000), pytest.raises(InputError, match="cannot write .*file too large.*; free"):
        write(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_that_cannot_be_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot create the folder"):
        write_text(tmp_path / "file" / "a.json", "x")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"{", "is not valid JSON"),
        (b"[1]", "holds a JSON list, not an object"),
        (b"\xff\xfe", "is not valid JSON .'utf-8' codec"),
        (b"", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
    ],
)
def test_json_that_is_none_is_an_input_error(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.json {message}"):
        read_json(path)


def test_tensors_come_back_with_their_metadata(tmp_path):
    tensors = {"a": torch.randn(3, 4).T, "b": torch.arange(5)}
    write_tensors(tmp_path / "t.safetensors", tensors, {"k": "v"})
    back, metadata = read_tensors(tmp_path / "t.safetensors")
    assert metadata == {"k": "v"}
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}", b"\xff" * 100, b"abc"])
def test_what_is_no_safetensors_file_is_an_input_error(tmp_path, content):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(InputError, match="not a whole"), open_tensors(tmp_path / "t"):
        pass
    with pytest.raises(InputError, match="does not exist"), open_tensors(tmp_path / "none"):
        pass


def test_sha256_of_a_file_against_a_published_value(tmp_path):
    """The example "abc" of FIPS 180-2, appendix B.1."""
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of_file(tmp_path / "a") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    with pytest.raises(InputError, match="cannot read .*none: no such file or directory$"):
        sha256_of_file(tmp_path / "none")
    with pytest.raises(InputError, match="cannot read .*: is a directory$"):
        sha256_of_file(tmp_path)


@pytest.mark.parametrize(
    "error, text",
    [
        (OSError(28, "No space left on device", "/a/File"), "no space left on device"),
        (OSError("Compressed file ended"), "compressed file ended"),
        (ValueError("embedded null byte"), "embedded null byte"),
    ],
)
def test_the_reason_of_an_error_is_part_of_a_sentence(error, text):
    assert reason(error) == text


def test_a_second_run_on_a_folder_is_refused(tmp_path):
    code = (
        "from llm.utils.files import locked_folder\n"
        "try:\n"
        f"    with locked_folder({str(tmp_path)!r}): print('in')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    command = [sys.executable, "-c", code]
    with locked_folder(tmp_path):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.stdout.startswith("InputError another run is writing")
    assert subprocess.run(command, capture_output=True, text=True).stdout == "in\n"


def test_json_is_utf8_and_ends_with_a_line_break(tmp_path):
    write_json(tmp_path / "a.json", {"text": "naïve £"})
    data = (tmp_path / "a.json").read_bytes()
    assert "naïve £" in data.decode("utf-8")
    assert data.endswith(b"}\n")
    assert json.loads(data) == {"text": "naïve £"}
