"""Files from the network: resumed after a break, verified by SHA-256, whole or absent.

The bytes go to `NAME.part`. After a broken connection, Ctrl-C or a power cut the next run asks
the server for the rest only (a Range request). The file gets its name once its SHA-256 is right.
A zip is kept as it came and read in memory (`llm.data.tsv`): nothing is unpacked, so no path
inside it can write anywhere.
"""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from llm.utils.errors import InputError
from llm.utils.files import make_folder

SMS_URL = "https://archive.ics.uci.edu/static/public/228/sms+spam+collection.zip"
# As published with huggingface/datasets (datasets/sms_spam/dataset_infos.json), and by many others
# that read it since, from the old address of the archive and from this one. The file inside,
# SMSSpamCollection, has 477,907 bytes, 5,574 messages (747 spam) and the SHA-256
# 7d039a24a6083ed9ef0f806ebad56bbb976e3aeb8de05669173bfdc4996c239d.
SMS_SHA256 = "1587ea43e58e82b14ff1f5425c88e17f8496bfcdb67a583dbff9eefaf9963ce3"
SMS_BYTES = 203_415
CHUNK = 2**16
ATTEMPTS = 4  # connections that break are taken up again this often in one run
TIMEOUT = 30  # seconds of silence after which a connection counts as broken
LOCK_SECONDS = 600  # to wait for another run that downloads the same file


def cache_folder() -> Path:
    """Where downloads are kept: LLM_DATA if it is set, else a folder in the user's cache."""
    if chosen := os.environ.get("LLM_DATA"):
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "llm-lora-lessons")
    except RuntimeError:  # a user without a home
        raise InputError("no home folder to keep downloads in; set LLM_DATA to one") from None


def sms_path() -> Path:
    """Where the full collection is kept once it is downloaded."""
    return cache_folder() / "sms+spam+collection.zip"


def download_sms(quiet: bool = False) -> Path:
    """The SMS Spam Collection v.1 from UCI, as `python -m llm download sms` fetches it.

    Raises InputError as `download` does.
    """
    remedy = (
        f"fetch {SMS_URL} with a browser and give it as --data FILE.zip, or leave out "
        "`--data full` to use the messages that are installed"
    )
    return download(SMS_URL, sms_path(), SMS_SHA256, SMS_BYTES, remedy, quiet)


def download(
    url: str,
    destination: str | Path,
    sha256: str,
    size: int,
    remedy: str = "fetch it with a browser and put it there",
    quiet: bool = True,
) -> Path:
    """Fetch `url` to `destination`, or do nothing where the right file lies already.

    Args:
        sha256: of the whole file, in hexadecimal.
        size: of the whole file in bytes; no more than that is ever written.
        remedy: what to do instead, for the error messages.
        quiet: no progress bar. There is none anyway where standard error is not a terminal.

    Returns:
        `destination` as a path.

    Raises:
        InputError: no network, a server that refuses or sends something else, a full disk, a
            folder that cannot be written. What was received so far is kept for the next run,
            unless it is wrong.
    """
    destination = Path(destination)
    part = destination.with_name(destination.name + ".part")
    make_folder(destination.parent)
    with _disk(destination), _locked(destination):
        if _digest(destination) == sha256:  # perhaps by the run that was waited for
            return destination
        problem = ""
        for _ in range(ATTEMPTS):
            before = _size(part)
            if before < size:
                problem = _fetch(url, part, size, quiet)
            if _digest(part) == sha256:
                with open(part, "rb") as file:
                    os.fsync(file.fileno())  # the bytes reach the disk before the name does
                os.replace(part, destination)
                return destination
            if _size(part) >= size:  # whole and wrong: begin anew if there was an old beginning
                part.unlink()
                problem = "what the server sends is another file: its SHA-256 differs"
                if not before:
                    break
            elif _size(part) <= before:  # nothing came; asking again at once will not help
                break
        kept = _size(part)
        again = f"; {kept:,} bytes are kept, run it again to go on" if kept else ""
        raise InputError(f"cannot download {url} ({problem}){again}; or else {remedy}")


def _fetch(url: str, part: Path, size: int, quiet: bool) -> str:
    """Ask for what `part` lacks and append it. Returns what went wrong in the network, or ""."""
    from tqdm import tqdm

    start = _size(part)
    headers = {"User-Agent": "llm-lora-lessons", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        request = urllib.request.Request(url, headers=headers)
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        return f"the server answers {error.code} {error.reason}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return str(getattr(error, "reason", None) or error or type(error).__name__)
    with response:
        resumed = response.status == 206
        place = response.headers.get("Content-Range", "")
        if resumed and not place.startswith(f"bytes {start}-"):
            return f"the server sends another part than the one asked for: {place!r}"
        if not resumed:
            start = 0  # a server that knows no Range sends the file from its beginning
        with (
            open(part, "ab" if resumed else "wb") as file,
            tqdm(
                total=size,
                initial=start,
                unit="B",
                unit_scale=True,
                desc=part.stem,
                disable=True if quiet else None,  # None: shown on a terminal only
            ) as bar,
        ):
            while start < size:
                try:
                    chunk = response.read(min(CHUNK, size - start))
                except (OSError, http.client.HTTPException) as error:
                    return f"the connection broke: {error or type(error).__name__}"
                if not chunk:
                    return f"the connection ended after {start:,} of {size:,} bytes"
                file.write(chunk)
                start += len(chunk)
                bar.update(len(chunk))
    return ""


@contextmanager
def _locked(destination: Path):
    """One download of a file at a time; a second run waits for the first."""
    from filelock import FileLock, Timeout

    lock = FileLock(destination.with_name(f".{destination.name}.lock"))
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise InputError(f"another run is downloading {destination}; wait for it") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _disk(destination: Path):
    """Whatever the disk refuses, in one line."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(
            f"cannot write {destination}: {reason}; free some space, or set LLM_DATA to another "
            "folder"
        ) from None


def _digest(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
