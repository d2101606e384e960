"""Object storage for dpone."""
