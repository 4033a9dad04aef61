"""Commands that read finished runs: `report`, `leaderboard`, `compare`, `verify`, `site`."""
