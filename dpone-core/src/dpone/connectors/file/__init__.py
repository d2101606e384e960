"""Files in a folder: source, sink, state and change log (``changelog``). Paths, globs, listings, durable writes.

What the bytes of a file mean is in ``dpone.formats``.
"""
