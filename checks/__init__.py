"""Programs for maintainers: what holds the project to what it says of itself."""
