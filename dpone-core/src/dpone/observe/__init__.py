"""How the events of a run are shown: a progress line, one line per event, or JSON lines (``progress``).

Reads events only: nothing here changes a run or connects to a source or a sink.
"""
