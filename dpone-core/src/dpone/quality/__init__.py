"""Row contracts: checking rows against rules, keys of ``unique``, quarantine.

The rules as values are in ``model.row_contract``; when a load is refused, ``engine.contract_check`` decides.
"""
