"""Commands about detectors, benchmarks, data sets and models: `list`, `check`, `new`."""
