"""What each command of `llm.cli.parser` does: read options, call the library, print."""

from llm.cli.folders import download, export, import_adapter, merge
from llm.cli.info import info
from llm.cli.training import compare, finetune, pretrain
from llm.cli.using import bits, evaluate, generate, predict

__all__ = ["bits", "compare", "download", "evaluate", "export", "finetune", "generate"]
__all__ += ["import_adapter", "info", "merge", "predict", "pretrain"]
