"""SQLite through the standard library: source, sink and state, made of ``dpone.sql``.

Only what SQLite does differently is here: its types and collations, its locks, its errors, its statements.
"""
