"""Options of the PostgreSQL connector. None yet beyond those that every source, sink and state backend takes."""
