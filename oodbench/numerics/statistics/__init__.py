"""Statistics of features and activations that detectors gather while they are fitted."""
