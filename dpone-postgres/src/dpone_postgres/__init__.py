"""PostgreSQL for dpone."""
