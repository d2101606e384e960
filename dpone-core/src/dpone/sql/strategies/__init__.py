"""One module per strategy: writes staged rows to the target, by set-based statements in the caller's transaction.

``job`` has what they share, ``finalizers`` chooses one. No transaction is begun or ended here.
"""
