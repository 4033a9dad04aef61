"""Training of the models of benchmarks."""
