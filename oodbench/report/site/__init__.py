"""A static web site of leaderboards: pages as data, and what writes them."""
