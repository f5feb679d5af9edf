"""`python -m llm`: see `llm.cli`."""

from llm.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
