"""Tables of reports, as data."""
