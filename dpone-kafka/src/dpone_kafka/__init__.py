"""Kafka for dpone."""
