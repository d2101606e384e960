"""Row contracts: checking rows against rules, keys of ``unique``, quarantine.

No source, sink or state is known here. The rules as values are in ``model.row_contract``; ``engine.contract_check``
decides whether a load is refused.
"""
