"""Images on disk: downloaded, unpacked, decoded, verified."""
