"""GPT-2's own weights from the Hugging Face hub, kept where all its tools keep theirs.

`huggingface_hub` minds `HF_HOME` (where files are kept), `HF_ENDPOINT` (a mirror) and
`HF_HUB_OFFLINE`, and tries again when a connection breaks. It starts anew, though, when its
process has ended, so the one large file is fetched here into a part that is kept.
"""

import hashlib
import os
import re
from pathlib import Path

from llm.utils.errors import InputError

REPOSITORIES = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
}
FILES = ("config.json", "vocab.json", "merges.txt", "model.safetensors")  # the last is large
OFFLINE = "without a network, `--model mini` works, and so does `--model FOLDER`"


def download(model: str) -> Path:
    """Fetch a published GPT-2, or what is still missing of it.

    Args:
        model: `gpt2`, `gpt2-medium`, `gpt2-large` or `gpt2-xl`.

    Returns:
        the folder in the hub's cache.

    Raises:
        InputError: an unknown model, no network, or a file whose SHA-256 is not the hub's.
    """
    if model not in REPOSITORIES:
        raise InputError(f"cannot download {model!r}; choose from {', '.join(REPOSITORIES)}, sms")
    try:
        return cached_folder(model)
    except InputError:
        pass
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    repository, path = REPOSITORIES[model], Path()
    try:
        for name in FILES:
            about = get_hf_file_metadata(hf_hub_url(repository, name))
            if re.fullmatch("[0-9a-f]{64}", about.etag or ""):  # a large file, told by its SHA-256
                _fetch(repository, name, about)
            path = Path(hf_hub_download(repository, name))
    except InputError:
        raise
    except Exception as error:  # httpx, ssl, proxies, the disk: each has its own errors
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"cannot download {model} ({reason[0]}); {OFFLINE}") from None
    return path.parent


def cached_folder(model: str) -> Path:
    """The folder of a model that was downloaded before; the network is not asked.

    Raises InputError when it was not, or not wholly.
    """
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(REPOSITORIES[model], name) for name in FILES]
    if not all(isinstance(path, str) for path in found):
        raise InputError(
            f"the weights of {model} are not here yet; fetch them with `python -m llm download "
            f"{model}`; {OFFLINE}"
        )
    return Path(found[-1]).parent


def cached_vocabulary() -> Path | None:
    """A folder with GPT-2's vocabulary, which all sizes share, if any of them was downloaded."""
    from huggingface_hub import try_to_load_from_cache

    for repository in REPOSITORIES.values():
        found = [try_to_load_from_cache(repository, name) for name in FILES[1:3]]
        if all(isinstance(path, str) for path in found):
            return Path(found[0]).parent
    return None


def _fetch(repository: str, name: str, about) -> None:
    """Fetch a large file into the hub's cache, from where an earlier attempt was broken off."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import http_get, repo_folder_name

    folder = repo_folder_name(repo_id=repository, repo_type="model")
    whole = Path(constants.HF_HUB_CACHE) / folder / "blobs" / about.etag
    if whole.exists():
        return
    whole.parent.mkdir(parents=True, exist_ok=True)
    part = whole.with_name(f"{about.etag}.incomplete")
    with open(part, "ab") as file:
        if file.tell() > about.size:
            file.truncate(0)
        http_get(
            about.location,
            file,
            resume_size=file.tell(),
            expected_size=about.size,
            displayed_filename=name,
        )
    with open(part, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != about.etag:
        part.unlink()
        raise InputError(
            f"{name} of {repository} came damaged (its SHA-256 differs from the hub's); try again"
        )
    os.replace(part, whole)
