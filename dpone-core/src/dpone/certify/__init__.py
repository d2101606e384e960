"""Certification: evidence of recorded runs, and the matrix that joins it with what plugins declare.

Nothing here runs a pipeline.
"""
