"""The structure of a user's model, found by running it on a few images."""
