"""On disk: a base, a fine-tuned folder, and the formats of transformers and peft."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "base": ["load_base", "load_config", "load_tokenizer"],
        "record": ["RunRecord", "read_record"],
        "finetuned": ["load_finetuned", "save_finetuned"],
        "export": ["export_folder"],
        "imported": ["import_folder"],
        "peft_import": ["import_peft"],
    },
)
