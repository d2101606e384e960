"""PostgreSQL for dpone: source, sink and state over ``dpone.sql``, and change streams by logical decoding.

``source`` ``sink`` ``state`` ``database``   made of ``dpone.sql``, with binary COPY (``binary``, ``texts``, ``rows``)
``parts`` ``cursor`` ``xmin``                reads in parts, by cursor and by xmin
``cdc`` ``pgoutput`` ``replication``         the change reader
``outside`` ``review``                       changes of tables and types that the log does not show
``connect`` ``waiting`` ``resolve``          connections, and waits that end
``check`` ``setup`` ``slot``                 rights, settings and slots, for ``dpone check`` and ``dpone cdc-plan``
"""
