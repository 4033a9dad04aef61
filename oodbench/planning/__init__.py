"""Plans of runs and suites."""
