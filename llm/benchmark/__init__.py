"""Speed and memory beside peers: `python -m llm.benchmark SUITE`."""
