import json
import os
import subprocess
import sys

import pytest
import torch

from llm.utils.errors import InputError
from llm.utils.files import (
    locked_folder,
    open_tensors,
    read_json,
    read_tensors,
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


def test_a_full_disk_is_one_line_and_the_old_file_stays(tmp_path):
    """A limit on the size of files stands in for a full disk."""
    code = f"""
import resource, signal
from llm.utils.files import write_text, write_tensors
from llm.utils.errors import InputError
import torch
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
write_text({str(tmp_path / "a")!r}, "old")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for write in (lambda p: write_text(p, "x" * 5000),
              lambda p: write_tensors(p, {{"x": torch.zeros(5000)}})):
    try:
        write({str(tmp_path / "a")!r})
    except InputError as error:
        print("InputError", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.count("InputError cannot write") == 2, done.stderr
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_that_cannot_be_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot create the folder"):
        write_text(tmp_path / "file" / "a.json", "x")


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe", b"", b"[" * 100_000])
def test_json_that_is_none_is_an_input_error(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json"):
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
