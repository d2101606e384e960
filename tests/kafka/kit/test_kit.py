"""The conformance kit against Kafka: green for what the plugin declares, and for nothing else."""

from __future__ import annotations

import pytest

from dpone.testing import RouteContract, SinkContract, SourceContract

pytestmark = pytest.mark.kafka


class TestKafkaSource(SourceContract):
    connector = "kafka"


class TestKafkaToSqlite(RouteContract):
    ends = ("kafka", "sqlite")


class TestKafkaSink(SinkContract):
    connector = "kafka"


class TestKafkaToKafka(RouteContract):
    ends = ("kafka", "kafka")
