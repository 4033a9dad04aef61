"""Forward and backward passes of a network, and what detectors take part in."""
