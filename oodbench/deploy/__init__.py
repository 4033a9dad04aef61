"""A fitted detector with its model: score, threshold, decision, and the artifact on disk."""
