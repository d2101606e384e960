"""The kit against a cluster that DPONE_TEST_KAFKA names."""

from __future__ import annotations

from dpone.testing import SinkContract


class TestKafkaSink(SinkContract):
    connector = "kafka"
