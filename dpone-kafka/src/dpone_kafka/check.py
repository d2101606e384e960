"""What ``dpone check --connect`` says of a source."""

from __future__ import annotations

from collections.abc import Mapping

from dpone.contract import Finding
from dpone.errors import counted
from dpone_kafka.cluster import Topic
from dpone_kafka.settings import Settings


def findings(cluster: str, given: Settings, topics: Mapping[str, Topic], policies: Mapping[str, str]) -> list[Finding]:
    who = f"User:{given.user}" if given.user else "User:ANONYMOUS"
    found = [Finding("kafka", True, f"cluster {cluster or 'without an id'} at {given.where}, {given.protocol}")]
    for name, topic in topics.items():
        many = counted(len(topic.leaders), "partition")
        policy = policies[name] or "not shown"
        found.append(Finding("topic", True, f"{name}, {many}, cleanup.policy {policy}"))
        grant = f"kafka-acls --add --allow-principal {who} --topic {name} --operation"
        if topic.may_read is False:
            found.append(Finding("acl", False, f"{who} may not read {name}", f"{grant} Read"))
        if not policies[name]:
            what = f"{who} may not see the settings of {name}: staged parts are read again after a crash"
            found.append(Finding("acl", None, what, f"{grant} DescribeConfigs"))
    return found
