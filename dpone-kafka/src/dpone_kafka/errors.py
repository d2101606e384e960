"""Kafka's errors as dpone's errors, and why a broker cannot be reached.

Codes: https://kafka.apache.org/protocol#protocol_error_codes.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress

from aiokafka import errors as kafka

from dpone.errors import Category, DponeError, ErrorCodes, SourceError

CODES = ErrorCodes(
    classes={
        "aiokafka.errors.KafkaConnectionError": Category.TRANSIENT,
        "aiokafka.errors.KafkaTimeoutError": Category.TRANSIENT,
        "aiokafka.errors.RequestTimedOutError": Category.TRANSIENT,
        "aiokafka.errors.SaslAuthenticationFailed": Category.AUTHORIZATION,
        "aiokafka.errors.TopicAuthorizationFailedError": Category.AUTHORIZATION,
        "aiokafka.errors.ClusterAuthorizationFailedError": Category.AUTHORIZATION,
    }
)

# What no later attempt changes; every other answer is asked for again until the limit.
FINAL = (
    kafka.OffsetOutOfRangeError, kafka.InvalidTopicError, kafka.TopicAuthorizationFailedError,
    kafka.ClusterAuthorizationFailedError, kafka.UnsupportedVersionError, kafka.UnsupportedCodecError,
    kafka.IncompatibleBrokerVersion,
)  # fmt: skip
_REFUSED = (
    kafka.SaslAuthenticationFailed, kafka.AuthenticationFailedError, kafka.UnsupportedSaslMechanismError,
    kafka.IllegalSaslStateError,
)  # fmt: skip


def failed(failed: str, found: str, todo: str, category: Category | None = None) -> SourceError:
    error = SourceError(failed, found, todo)
    error.category = category
    return error


def interrupted() -> DponeError:
    return failed("wait for Kafka", "the run was interrupted", "run again", Category.TRANSIENT)


def answered(error: Exception, what: str, topic: str, user: str) -> DponeError:
    """The error of an answer that no later attempt changes."""
    if isinstance(error, kafka.TopicAuthorizationFailedError):
        who = f"User:{user}" if user else "User:ANONYMOUS"
        todo = f"kafka-acls --add --allow-principal {who} --operation Read --operation DescribeConfigs --topic {topic}"
        return failed(what, f"{who} may not read topic {topic}", todo, Category.AUTHORIZATION)
    if isinstance(error, kafka.InvalidTopicError):
        return failed(what, f"{topic} is not a name of a topic", "correct source.topic")
    if isinstance(error, kafka.UnsupportedCodecError):
        return failed(what, "a batch is compressed by a codec that is not installed", "pip install cramjam")
    if isinstance(error, kafka.UnsupportedVersionError | kafka.IncompatibleBrokerVersion):
        return failed(what, "the broker is too old for this client", "use Apache Kafka 0.11 or newer")
    return failed(what, f"the broker answers {type(error).__name__}", "check the broker's log")


async def unreachable(error: BaseException, host: str, port: int, protocol: str, mechanism: str) -> DponeError:
    """Why a connection to one broker failed: aiokafka's own error says it, or one look at how the port answers."""
    what = f"connect to {host}:{port}"
    if isinstance(error, _REFUSED):
        return failed(what, *_refused(error, mechanism), Category.AUTHORIZATION)
    if isinstance(error, ssl.SSLCertVerificationError):
        return failed(what, *_untrusted(error, host), Category.AUTHORIZATION)
    if isinstance(error, socket.gaierror):
        return failed(what, "the host name is unknown", "correct bootstrap_servers", Category.TRANSIENT)
    if isinstance(error, ConnectionRefusedError):
        todo = "check bootstrap_servers, and that the broker is up"
        return failed(what, "the connection is refused", todo, Category.TRANSIENT)
    if isinstance(error, TimeoutError | kafka.RequestTimedOutError):
        todo = "check the network, or raise options.silence_timeout"
        return failed(what, "the broker accepts no connection or does not answer", todo, Category.TRANSIENT)
    encrypted = protocol.endswith("SSL")
    speaks = await _speaks_tls(host, port)
    if encrypted and speaks is False:
        plain = "SASL_PLAINTEXT" if protocol.startswith("SASL") else "PLAINTEXT"
        todo = f"use the broker's TLS port, or set security_protocol: {plain} in a network that you trust"
        return failed(what, "the port does not speak TLS", todo, Category.AUTHORIZATION)
    if not encrypted and speaks:
        secure = "SASL_SSL" if protocol.startswith("SASL") else "SSL"
        todo = f"set security_protocol: {secure}, or use the plaintext port"
        return failed(what, "the port speaks TLS", todo, Category.AUTHORIZATION)
    if isinstance(error, ssl.SSLError):
        found = f"the TLS handshake failed ({error.reason or 'no reason given'})"
        todo = "check ssl_cafile, and ssl_certfile if the broker wants a client certificate"
        return failed(what, found, todo, Category.AUTHORIZATION)
    if isinstance(error, kafka.KafkaConnectionError):
        cause = error.__cause__
        if isinstance(cause, ssl.SSLError):
            return await unreachable(cause, host, port, protocol, mechanism)
        if isinstance(cause, _REFUSED):
            return failed(what, *_refused(cause, mechanism), Category.AUTHORIZATION)
        todo = "check security_protocol and sasl_mechanism against the listener of this port"
        return failed(what, "the broker closed the connection during the handshake", todo, Category.TRANSIENT)
    if isinstance(error, OSError):
        found = (error.strerror or type(error).__name__).lower()
        return failed(what, found, "check that the broker and the network are up", Category.TRANSIENT)
    return failed(what, type(error).__name__, "check that the port belongs to a Kafka broker")


def _refused(error: BaseException, mechanism: str) -> tuple[str, str]:
    if isinstance(error, kafka.SaslAuthenticationFailed | kafka.AuthenticationFailedError):
        return f"the broker refused user or password ({mechanism})", "correct sasl_username and sasl_password"
    if isinstance(error, kafka.IllegalSaslStateError):
        todo = "set security_protocol to PLAINTEXT or SSL, or use the broker's SASL port"
        return "the listener of this port does not use SASL", todo
    return f"the broker does not offer {mechanism}", "set sasl_mechanism to one that the broker offers"


def _untrusted(error: ssl.SSLCertVerificationError, host: str) -> tuple[str, str]:
    if error.verify_code == 10:  # X509_V_ERR_CERT_HAS_EXPIRED
        return "the broker's certificate has expired", "renew the certificate of the broker"
    if error.verify_code in (62, 64):  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
        return f"the broker's certificate is not for {host}", "connect by a name that the certificate has"
    return "the broker's certificate is signed by an unknown authority", "set ssl_cafile to the certificate of its CA"


async def _speaks_tls(host: str, port: int) -> bool | None:
    """Whether the port answers a TLS hello with TLS; None if it cannot be found out. Nothing is sent but the hello."""
    look = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    look.check_hostname, look.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(5):
            _, writer = await asyncio.open_connection(host, port, ssl=look)
    except ssl.SSLError as error:
        return error.reason not in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
    except (OSError, TimeoutError):
        # A plaintext broker takes the hello for a request of a huge length, and closes the connection.
        return await _listens(host, port)
    writer.close()
    with suppress(OSError, ssl.SSLError):
        await writer.wait_closed()
    return True


async def _listens(host: str, port: int) -> bool | None:
    try:
        async with asyncio.timeout(5):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return None
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return False
