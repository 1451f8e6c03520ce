"""The bench: `python -m tests.bench [PART...]` measures, prints tables and keeps the figures in build/bench.json."""
