"""Values: what a pipeline says, positions, schemas, bounds, reports. Pure: no I/O, no driver, no connector."""
