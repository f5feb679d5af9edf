"""Files from the network: resumed after a break, verified, whole or absent."""

import os
from pathlib import Path

# As published in huggingface/datasets (datasets/sms_spam/dataset_infos.json, with 203,415 bytes).
SMS_SHA256 = "1587ea43e58e82b14ff1f5425c88e17f8496bfcdb67a583dbff9eefaf9963ce3"


def cache_folder() -> Path:
    """Where downloads are kept: LLM_DATA, else the user's cache folder."""
    if chosen := os.environ.get("LLM_DATA"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm-lora-lessons"


def sms_path() -> Path:
    """Where the full collection is kept once it is downloaded."""
    return cache_folder() / "sms+spam+collection.zip"
