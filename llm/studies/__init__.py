"""The numbers of README.md: comparisons, searches, curves, tables."""
