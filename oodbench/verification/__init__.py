"""Whether the numbers of a stored run follow from its scores, and its reports from its records.

The package is not called `verify`, which is the public function `oodbench.verify`.
"""
