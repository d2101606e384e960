"""One module per strategy: staged rows become target rows, by set-based statements in the caller's transaction.

``job`` is what they share, ``finalizers`` says which is used. No transaction is begun or ended here.
"""
