"""Reports in the formats of files and terminals."""
