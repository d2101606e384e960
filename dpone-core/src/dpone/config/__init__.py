"""YAML to model: the document, its references, the values of each part, and the JSON Schema of it all.

Connects to nothing.
"""
