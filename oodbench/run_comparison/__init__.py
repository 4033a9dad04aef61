"""Two or more runs against each other: paired statistics, verdicts, and the gate of a CI job.

The package is not called `compare`, which is the public function `oodbench.compare`.
"""
