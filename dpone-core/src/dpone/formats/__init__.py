"""Formats of files: bytes to Arrow and back."""
