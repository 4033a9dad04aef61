"""A web page about scored images: which are most, least and hardly in-distribution."""
