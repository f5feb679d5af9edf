"""The command line: `python -m llm`."""
