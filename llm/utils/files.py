"""Files that are whole or absent: written to a temporary name, flushed, then renamed.

A reader who presses Ctrl-C, a full disk or a power cut leaves either the old file or the new one,
never half of one. Only two formats are written: JSON and safetensors. Neither can carry code, so
opening somebody else's file cannot run anything.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llm.utils.errors import InputError, reason

UNFINISHED = ".part"  # how the temporary names end
LOCK = ".lock"


def make_folder(folder: str | Path) -> Path:
    """Create `folder` and its parents. Raises InputError where that is not allowed."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot create the folder {folder}: {reason(error)}; choose another",
            settings=("out",),
        ) from None
    return folder


def refuse_to_overwrite(folder: str | Path, may_go_on: bool = False) -> None:
    """Raise InputError where `folder` holds something, other than what a failed start left.

    Args:
        may_go_on: whether what it holds could also be a run to resume.
    """
    folder = Path(folder)
    held = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    held = [name for name in held if name != LOCK and not name.endswith(UNFINISHED)]
    if held:
        raise InputError(
            f"{folder} holds {held[0]} already; choose another folder, "
            f"{'go on with the run in it, ' if may_go_on else ''}or have it written over",
            settings=("out", *(["resume"] if may_go_on else []), "overwrite"),
        )


def remove(path: str | Path) -> None:
    """Delete a file, if it is there. Raises InputError where that is not allowed."""
    try:
        Path(path).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot delete {path}: {reason(error)}; choose another folder", settings=("out",)
        ) from None


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path`, on failure it vanishes.

    Raises InputError where the folder cannot be written or the disk is full.
    """
    path = Path(path)
    make_folder(path.parent)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED
        )
        os.close(handle)
        yield Path(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())  # the bytes reach the disk before the name does
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {reason(error)}; free some space or choose another folder"
        ) from None
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, content: object) -> None:
    """Write JSON, indented, keys in the order given."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> dict:
    """Read a JSON object. Raises InputError when the file is absent or is not a JSON object."""
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {reason(error)}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, a number of 5000 digits
        raise InputError(f"{path} is not valid JSON ({error}); write the folder anew") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a JSON {type(content).__name__}, not an object")
    return content


def sha256_of_file(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal. Raises InputError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {reason(error)}") from None


def write_tensors(path: str | Path, tensors: dict, metadata: dict[str, str] | None = None) -> None:
    """Write named tensors as safetensors, whole or not at all."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata=metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from None


@contextmanager
def open_tensors(path: str | Path, device: str = "cpu"):
    """Open a safetensors file by memory mapping: a tensor is read only when it is asked for.

    Yields safetensors' reader (`keys()`, `get_tensor(name)`, `get_slice(name)`, `metadata()`).
    Raises InputError when the file is absent, truncated or not safetensors.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    try:
        reader = safe_open(path, framework="pt", device=device)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, not a safetensors file") from None
    except (SafetensorError, OSError, ValueError, OverflowError, RuntimeError) as error:
        raise InputError(f"{path} is not a whole safetensors file ({error})") from None
    with reader:
        yield reader


def read_tensors(path: str | Path) -> tuple[dict, dict[str, str]]:
    """All tensors of a safetensors file by name, and its metadata (strings by name)."""
    with open_tensors(path) as reader:
        tensors = {name: reader.get_tensor(name) for name in reader.keys()}
        return tensors, dict(reader.metadata() or {})


@contextmanager
def locked_folder(folder: str | Path) -> Iterator[Path]:
    """Hold `folder` for one run. Raises InputError when another run is writing into it.

    What a killed run left unfinished in it is deleted.
    """
    from filelock import FileLock, Timeout

    folder = make_folder(folder)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"another run is writing into {folder}; wait for it, or choose another folder",
            settings=("out",),
        ) from None
    except OSError as error:
        raise InputError(
            f"cannot write into {folder}: {reason(error)}; choose another folder",
            settings=("out",),
        ) from None
    try:
        for unfinished in folder.rglob(f".*{UNFINISHED}"):
            remove(unfinished)
        yield folder
    finally:
        lock.release()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
