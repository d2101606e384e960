"""What a broker or the client refuses, as errors of a sink. No message shows a value."""

from __future__ import annotations

from aiokafka import errors as kafka

from dpone.errors import Category, Conflict, DponeError, SinkError

FENCED = (kafka.ProducerFenced, kafka.InvalidProducerEpoch, kafka.InvalidTxnState, kafka.InvalidProducerIdMapping)
_RIGHTS = {
    kafka.TransactionalIdAuthorizationFailed: "the user may not use the transactional id",
    kafka.TopicAuthorizationFailedError: "the user may not read or write the topic",
    kafka.ClusterAuthorizationFailedError: "the user may not create topics, or write with idempotence",
}


def transient(failed: str, found: str, todo: str) -> SinkError:
    error = SinkError(failed, found, todo)
    error.category = Category.TRANSIENT
    return error


def silent(what: str, where: str, seconds: float) -> SinkError:
    todo = "check that the brokers are up, or set options.silence_timeout higher"
    return transient(what, f"no answer from {where} within {seconds:g} seconds", todo)


def fenced(what: str) -> Conflict:
    found = "another run of this stream has taken over its transactional id"
    return Conflict(what, found, "let the other run end, then run again")


def refused(what: str, where: str, error: Exception) -> DponeError:
    if isinstance(error, FENCED):
        return fenced(what)
    for kind, found in _RIGHTS.items():
        if isinstance(error, kind):
            answer = SinkError(what, found, "grant what docs/connectors/kafka.md lists for the sink")
            answer.category = Category.AUTHORIZATION
            return answer
    if isinstance(error, kafka.InvalidTransactionTimeout):
        todo = "set options.transaction_timeout no higher than transaction.max.timeout.ms of the brokers"
        return SinkError(what, "the brokers refuse the transaction timeout", todo)
    if isinstance(error, kafka.InvalidReplicationFactorError):
        todo = "set options.create.replication to a number that the cluster has brokers for"
        return SinkError(what, "the cluster has too few brokers for the replication factor", todo)
    if isinstance(error, kafka.InvalidTopicError):
        return SinkError(what, "the brokers refuse the name of the topic", "use letters, digits, '.', '_' and '-'")
    if isinstance(error, kafka.InvalidConfigurationError):
        return SinkError(what, "the brokers refuse a setting of the topic", "correct options.create.config")
    found = f"{where} answered {type(error).__name__}"
    if isinstance(error, kafka.KafkaError) and not (error.retriable or isinstance(error, kafka.KafkaConnectionError)):
        return SinkError(what, found, "check the log of the brokers")
    if isinstance(error, kafka.KafkaConnectionError | OSError):
        return transient(what, f"{where} cannot be reached", "check the address, and that the brokers are up")
    return transient(what, found, "run again when the brokers are well")
