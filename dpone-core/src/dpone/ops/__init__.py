"""Operational controls."""
