"""Mathematics that detectors share."""
