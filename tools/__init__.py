"""Programs for users: each is `uv run -m tools.NAME`."""
