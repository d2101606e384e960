"""What every change stream shares: batches, the spool, a CDCReader as a Source, offsets as JSON, ids of events.

Offsets and readers of a backend live in its connector.
"""
