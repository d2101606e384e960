"""Options of the SQL Server connector. None yet beyond those that every source, sink and state backend takes."""
