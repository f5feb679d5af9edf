"""A GPT-2 written from scratch, and LoRA to adapt it: read the files in the order of `README.md`.

Nothing is imported here, so `import llm` costs nothing; import from the file that holds the idea,
for example `from llm.lora import LinearWithLoRA`.
"""
