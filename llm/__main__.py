"""`python -m llm`: see `llm.cli.parser`."""

from llm.cli.parser import main

if __name__ == "__main__":
    raise SystemExit(main())
