"""The structure of a network that oodbench did not write, found by running it on a few images."""
