"""YAML to model: the document, its references, the values of each part, and the JSON Schema of it all. Also what a
command line gives in place of a file (``command_line``), and documents of the Open Data Contract Standard (``odcs``).

Connects to nothing.
"""
