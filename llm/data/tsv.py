"""From a file to labelled messages: `label<TAB>message`, one a line, or the UCI zip of them.

What real files hold and a newcomer's `line.split()` trips over: HTML entities (`&lt;`), lines
that begin with a quotation mark nobody closes, tabs inside a message, Windows line ends, an
encoding that is not UTF-8. A quotation mark is an ordinary character here; a reader of CSV that
takes it for the beginning of a field swallows whole messages.
"""

import hashlib
import html
import io
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llm.utils.errors import InputError, reason

LABELS = ("ham", "spam")
MEMBER = "SMSSpamCollection"  # the file with the messages in UCI's zip
MAX_BYTES = 64 * 2**20  # of a file, and of a zip's member: a hundred times the whole collection
FORMAT = "write one message a line, as label<TAB>message in UTF-8"
ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


@dataclass(frozen=True)
class Message:
    """A text and its label: the place of the label's name in a tuple such as `LABELS`."""

    text: str
    label: int


@dataclass(frozen=True)
class MessageFile:
    """What a file held."""

    messages: tuple[Message, ...]
    sha256: str  # of the file as it lies on the disk
    encoding: str  # "utf-8", "utf-16" or "cp1252"
    entities_decoded: int  # messages that held HTML entities
    unquoted: int  # messages that a CSV writer had put in quotation marks


def read_labelled(path: str | Path, labels: Sequence[str] = LABELS) -> list[Message]:
    """The messages of a file, repeats included: an evaluation measures what it is given.

    Raises InputError as `read_message_file` does.
    """
    return list(read_message_file(path, labels).messages)


def read_message_file(path: str | Path, labels: Sequence[str] = LABELS) -> MessageFile:
    """Read `label<TAB>message` lines, or the zip that UCI offers, which is never unpacked to disk.

    Args:
        path: the file. A first line `label<TAB>...` is taken for a header. A byte order mark,
            Windows line ends and empty lines at the end do no harm.
        labels: the names that may stand before the tab, in any case.

    Raises:
        InputError: with the file, the line and the remedy, when the file is missing, a folder,
            empty, not text or larger than 64 MiB, and for a line that has no tab, an unknown
            label or no message.
    """
    data = read_bytes(path)
    sha256 = hashlib.sha256(data).hexdigest()
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        where = f"{path} ({MEMBER})"
        data = zip_member(data, path)
    else:
        where = str(path)
    text, encoding = decode(data, where)
    messages, entities, quoted = _parse(text, where, labels)
    return MessageFile(messages, sha256, encoding, entities, quoted)


def read_bytes(path: str | Path) -> bytes:
    """A file's content. Raises InputError when it cannot be read or is larger than 64 MiB."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist; give the name of a file", settings=("data",)
        ) from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; give a file in it", settings=("data",)) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(
            f"cannot read {path}: {reason(error)}; give another file", settings=("data",)
        ) from None
    if len(data) > MAX_BYTES:
        raise InputError(
            f"{path} is larger than {MAX_BYTES >> 20} MiB; give a part of it", settings=("data",)
        )
    return data


def zip_member(data: bytes, path: str | Path) -> bytes:
    """The messages inside UCI's zip, read in memory, so that no path in it can do harm.

    Raises InputError when the zip is damaged, lacks the member, or would unpack to over 64 MiB.
    """

    def refusal(reason: str) -> InputError:
        remedy = "download it anew, or unpack it and give the file"
        return InputError(f"{path} {reason}; {remedy}", ("data",), "download sms")

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if MEMBER not in archive.namelist():
                raise refusal(f"is a zip without a file {MEMBER}")
            member = archive.getinfo(MEMBER)
            # zipfile bounds the memory of these two only; UCI's zip is deflated.
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise refusal("is compressed in an unusual way")
            with archive.open(member) as file:
                content = file.read(MAX_BYTES + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise refusal(f"is a damaged zip ({error})") from None
    except (RuntimeError, NotImplementedError) as error:  # a password, an unknown feature
        raise refusal(f"cannot be unpacked ({error})") from None
    if len(content) > MAX_BYTES:
        raise refusal(f"unpacks to more than {MAX_BYTES >> 20} MiB")
    return content


def decode(data: bytes, where: str) -> tuple[str, str]:
    """Bytes to text: UTF-8, else UTF-16 if it says so, else Windows' cp1252.

    Latin-1 is not tried: it gives every byte a meaning, so it would never find a mistake, and
    where it differs from cp1252 it has only control characters.

    Returns:
        (the text, the encoding that was found)

    Raises:
        InputError: when the data is empty, holds NUL bytes, or is in none of these encodings.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encodings = ("utf-16",)  # what spreadsheets call "Unicode text"
    else:
        encodings = ("utf-8-sig", "cp1252")
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            continue
        if not text.strip():
            raise InputError(f"{where} is empty; {FORMAT}")
        if "\0" in text:
            line = text.count("\n", 0, text.index("\0")) + 1
            raise InputError(f"{where}, line {line}: not text (a NUL character); {FORMAT}")
        return text, encoding.removesuffix("-sig")
    raise InputError(f"{where}, line {line}: neither UTF-8 nor cp1252 text; save it as UTF-8")


def unquote(text: str) -> str:
    """Undo what a CSV writer does to a text with quotation marks: `"a ""b"" c"` -> `a "b" c`.

    Anything that no CSV writer would have written stays as it is, such as a mark that is opened
    and never closed.
    """
    inner = text[1:-1]
    quoted = len(text) > 2 and text[0] == text[-1] == '"'
    if quoted and '""' in inner and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return text


def decode_entities(text: str) -> str:
    """`&lt;` -> `<`, and so on; only with the semicolon, for `&copy=2` may be part of a link."""
    return ENTITY.sub(lambda match: html.unescape(match[0]), text)


def _parse(text: str, where: str, labels: Sequence[str]) -> tuple[tuple[Message, ...], int, int]:
    """Text to (messages, how many held entities, how many were quoted)."""
    numbers = {name.casefold(): number for number, name in enumerate(labels)}
    # Not splitlines(): it also breaks lines at characters that stand inside messages.
    lines = text.rstrip().split("\n")
    messages, entities, quoted = [], 0, 0
    for number, line in enumerate(lines, start=1):
        name, tab, raw = line.partition("\t")  # the first tab only: a message may hold more
        name = name.strip().casefold()
        if number == 1 and tab and name == "label":
            continue
        at = f"{where}, line {number}"
        if not line.strip():
            raise InputError(f"{at}: empty line; delete it")
        if not tab and name in numbers:
            raise InputError(f"{at}: no message after the label; add it or delete the line")
        if not tab:
            raise InputError(f"{at}: no tab between label and message; {FORMAT}")
        if name not in numbers:
            names = " or ".join(labels)
            raise InputError(f"{at}: unknown label {_shown(name)}; write {names} before the tab")
        raw = raw.strip()
        plain = unquote(raw)
        cleaned = decode_entities(plain).strip()
        if not cleaned:
            raise InputError(f"{at}: no message after the label; add it or delete the line")
        quoted += plain != raw
        entities += decode_entities(plain) != plain
        messages.append(Message(cleaned, numbers[name]))
    if not messages:
        raise InputError(f"{where} holds a header and no message; {FORMAT}")
    return tuple(messages), entities, quoted


def _shown(text: str) -> str:
    return repr(text if len(text) <= 20 else text[:20] + "…")
