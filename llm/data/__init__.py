"""From texts to batches of token ids: messages, tasks, tokenizers, a corpus."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "messages": ["load_messages", "load_task"],
        "splits": ["split"],
        "tsv": ["Message", "read_labelled"],
        "tasks": ["TASKS"],
        "tokenizer": ["Tokenizer", "gpt2_tokenizer", "mini_tokenizer"],
        "batching": ["Batch", "Encoded", "collate", "encode_messages"],
        "corpus": ["Corpus"],
    },
)
