"""The run. Read ``run`` first, then the stages in their order: ``recover``, ``plan``, ``stage``, ``commit``.

No statement, no format and no driver: these belong to sinks and sources.
"""
