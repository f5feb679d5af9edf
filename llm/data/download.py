"""The full message collection from the network: verified by SHA-256, whole or absent.

The zip is kept as it came and read in memory (`llm.data.tsv`): nothing is unpacked, so no path
inside it can write anywhere. Two runs at once do no harm: each fetches to a name of its own and
then renames the file.
"""

import os
import sys
from pathlib import Path

import platformdirs

from llm.utils.errors import InputError, reason
from llm.utils.files import make_folder

SMS_URL = "https://archive.ics.uci.edu/static/public/228/sms+spam+collection.zip"
# As published with huggingface/datasets (datasets/sms_spam/dataset_infos.json), and by many others
# that read it since, from the old address of the archive and from this one. The zip has 203,415
# bytes; the file inside, SMSSpamCollection, has 477,907 bytes, 5,574 messages (747 spam) and the
# SHA-256 7d039a24a6083ed9ef0f806ebad56bbb976e3aeb8de05669173bfdc4996c239d.
SMS_SHA256 = "1587ea43e58e82b14ff1f5425c88e17f8496bfcdb67a583dbff9eefaf9963ce3"
TIMEOUT = 30  # seconds of silence after which a connection counts as broken


def cache_folder() -> Path:
    """Where downloads are kept: LLM_DATA if it is set, else a folder in the user's cache."""
    return Path(os.environ.get("LLM_DATA") or platformdirs.user_cache_dir("llm-lora-lessons"))


def sms_path() -> Path:
    """Where the full collection is kept once it is downloaded."""
    return cache_folder() / "sms+spam+collection.zip"


def download_sms(quiet: bool = False) -> Path:
    """The SMS Spam Collection v.1 from UCI, as `python -m llm download sms` fetches it.

    Raises InputError as `download` does.
    """
    remedy = (
        f"fetch {SMS_URL} with a browser and give that file as the data, or use the messages that "
        "are installed"
    )
    return download(SMS_URL, sms_path(), SMS_SHA256, remedy, quiet)


def download(
    url: str,
    destination: str | Path,
    sha256: str,
    remedy: str = "fetch it with a browser and put it there",
    quiet: bool = True,
) -> Path:
    """Fetch `url` to `destination`, or do nothing where the right file lies already.

    Args:
        sha256: of the file, in hexadecimal.
        remedy: what to do instead, for the error messages.
        quiet: no progress bar. There is none anyway where standard error is not a terminal.

    Returns:
        `destination` as a path.

    Raises:
        InputError: no network, a server that refuses or sends something else, a full disk, a
            folder that cannot be written. Nothing is left of a download that failed.
    """
    import pooch
    import requests

    destination = Path(destination)
    make_folder(destination.parent)
    pooch.get_logger().setLevel("WARNING")  # it announces each download
    progress = not quiet and sys.stderr.isatty()
    http = pooch.HTTPDownloader(progressbar=progress, timeout=TIMEOUT)
    try:
        pooch.retrieve(url, f"sha256:{sha256}", destination.name, destination.parent, None, http)
        destination.chmod(0o644)  # pooch leaves a file that nobody else may read
    except (requests.RequestException, ValueError) as error:  # ValueError: another SHA-256
        raise InputError(f"cannot download {url} ({error}); or else {remedy}") from None
    except OSError as error:
        raise InputError(
            f"cannot write {destination}: {reason(error)}; free some space, or set LLM_DATA to "
            "another folder"
        ) from None
    return destination
