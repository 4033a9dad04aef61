"""A benchmark of a user's models and folders of images, for `oodbench evaluate`."""
