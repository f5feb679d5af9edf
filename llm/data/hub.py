"""GPT-2's own weights from the Hugging Face hub, kept where all its tools keep theirs.

`huggingface_hub` downloads, keeps and locks; it minds `HF_HOME` (where files are kept),
`HF_ENDPOINT` (a mirror) and `HF_HUB_OFFLINE`. A connection that breaks is taken up where it broke
while the program runs. A program that is ended begins the file anew, and leaves no half of it: the
library gives each download a part file of its own, so that two of them cannot mix. What is added
here is that the weights have the SHA-256 that the hub gives for them.
"""

from pathlib import Path

from llm.utils.errors import InputError
from llm.utils.files import remove, sha256_of_file

REPOSITORIES = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
}
WEIGHTS, VOCABULARY = "model.safetensors", ("vocab.json", "merges.txt")
FILES = (WEIGHTS, "config.json", *VOCABULARY)
OFFLINE = "without a network, the model `mini` works, and so does a folder with weights"


def download(model: str) -> Path:
    """Fetch a published GPT-2, or what is still missing of it.

    Args:
        model: `gpt2`, `gpt2-medium`, `gpt2-large` or `gpt2-xl`.

    Returns:
        the folder in the hub's cache.

    Raises:
        InputError: an unknown model, no network, or weights whose SHA-256 is not the hub's.
    """
    if model not in REPOSITORIES:
        raise InputError(f"cannot download {model!r}; choose from {', '.join(REPOSITORIES)}, sms")
    try:
        return cached_folder(model)
    except InputError:
        pass
    from huggingface_hub import hf_hub_download

    repository = REPOSITORIES[model]
    try:
        # The weights first: a folder without the other files does not count (`cached_folder`), so
        # it never does before the weights are verified, not even after a kill.
        _download_weights(repository)
        for name in FILES[1:]:
            path = Path(hf_hub_download(repository, name))
    except InputError:
        raise
    except Exception as error:  # httpx, ssl, proxies, the disk: each has its own errors
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"cannot download {model} ({lines[0]}); {OFFLINE}", settings=("model=mini",)
        ) from None
    return path.parent


def cached_folder(model: str) -> Path:
    """The folder of a model that was downloaded before; the network is not asked.

    Raises InputError when it was not, or not wholly.
    """
    folder = _cached(REPOSITORIES[model], FILES)
    if folder is None:
        raise InputError(
            f"the weights of {model} are not here yet; fetch them once; {OFFLINE}",
            settings=("model=mini",),
            command=f"download {model}",
        )
    return folder


def cached_vocabulary() -> Path | None:
    """A folder with GPT-2's vocabulary, which all sizes share, if any of them was downloaded."""
    folders = (_cached(repository, VOCABULARY) for repository in REPOSITORIES.values())
    return next(filter(None, folders), None)


def _cached(repository: str, names: tuple[str, ...]) -> Path | None:
    """The folder in the hub's cache, if it holds all the files."""
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(repository, name) for name in names]
    return Path(found[0]).parent if all(isinstance(path, str) for path in found) else None


def _download_weights(repository: str) -> None:
    """Fetch the weights; if they are not what the hub says they are, they are not kept."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    sha256 = get_hf_file_metadata(hf_hub_url(repository, WEIGHTS)).etag  # a large file's SHA-256
    path = Path(hf_hub_download(repository, WEIGHTS))
    if sha256_of_file(path) != sha256:
        for damaged in {path.resolve(), path}:  # a link into the cache's store, on most systems
            remove(damaged)
        raise InputError(
            f"{WEIGHTS} of {repository} came damaged (its SHA-256 differs from the hub's); try "
            "again"
        )
