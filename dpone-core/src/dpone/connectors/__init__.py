"""Built-in connectors, one package each, found through entry points like any other.

They import nothing of each other, and nothing imports them.
"""
