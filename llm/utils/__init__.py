"""Whole files, paths, errors, programs: what every room stands on."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "errors": ["InputError"],
        "paths": ["BUNDLED", "DATA", "MINI_FOLDER", "ROOT", "VOICES"],
        "files": ["read_json", "write_json"],
    },
)
