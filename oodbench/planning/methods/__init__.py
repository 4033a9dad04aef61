"""The methods of a plan: which they are, with which settings, and why some cannot run."""
