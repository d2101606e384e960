"""SQL Server for dpone."""
