"""Files of runs and suites."""
