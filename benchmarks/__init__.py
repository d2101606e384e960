"""dpone against the plain way of doing the same: ``python -m benchmarks`` (docs/internals/performance.md)."""
