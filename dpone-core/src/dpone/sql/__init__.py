"""What every SQL connector shares.

``dialect``   Dialect and Database: what a connector implements; ``dbapi`` has most of a Database over a DB-API driver
``system``    SqlSystem, of which ``source``, ``sink`` and ``state`` are made; ``plugin`` declares it
``writer``    staging and commit; ``journal`` and ``own`` keep dpone's own tables; ``strategies`` writes the target
``cursor``    incremental reads; ``in_flight`` open transactions that may still commit below the position
``fold``      change batches into at most one change for each row
``undo`` ``restore`` ``provisional`` ``sweep``   what a load kept, how it is taken back, what may be deleted

What is not here: a driver, a server's name, an address. A statement that not every server accepts is a method of
Dialect or Database.
"""
