"""`make bench`: one module a benchmark; the figures go to docs/benchmarks.md."""
