"""Published values beside measured ones: tables of papers, and averages of leaderboards."""
