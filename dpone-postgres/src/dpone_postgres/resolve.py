"""Resolves host names before libpq connects.

libpq calls ``getaddrinfo``, which has no timeout of its own: with a silent name server it waits 5 seconds, twice, for
each name server and each search domain (resolv.conf(5), defaults). psycopg holds the interpreter lock meanwhile, so no
thread can handle a signal. Here a separate thread resolves the name, and is abandoned when the time is up.
"""

from __future__ import annotations

import ipaddress
import os
import queue
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress

import psycopg
from psycopg.conninfo import timeout_from_conninfo

from dpone.host import stopping


def addressed(given: Mapping[str, str], service: Mapping[str, str]) -> dict[str, str]:
    """libpq's parameters with ``hostaddr`` set, with one entry for each address of each host. The names stay, for
    certificates and password files. Raises psycopg.OperationalError if no host can be resolved."""
    known = {name: _parameter(given, service, name) for name in ("host", "hostaddr", "port")}
    if not known["host"] or known["hostaddr"]:
        return dict(given)
    hosts, ports = known["host"].split(","), known["port"].split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    if len(ports) != len(hosts):
        return dict(given)  # libpq reports this
    until = time.monotonic() + timeout_from_conninfo(dict(given))
    found, wrong = list[tuple[str, str, str]](), ""
    for host, port in zip(hosts, ports, strict=True):
        try:
            found += [(host, address, port) for address in _addresses(host, until)]
        except psycopg.OperationalError as error:
            wrong = wrong or str(error)
    if not found:
        raise psycopg.OperationalError(wrong)
    names, addresses, numbers = (",".join(each) for each in zip(*found, strict=True))
    return {**given, "host": names, "hostaddr": addresses, **({"port": numbers} if numbers.strip(",") else {})}


def _parameter(given: Mapping[str, str], service: Mapping[str, str], name: str) -> str:
    """Looked up in libpq's order: given, service file, environment."""
    return given.get(name) or service.get(name) or os.environ.get(f"PG{name.upper()}", "")


def _addresses(host: str, until: float) -> list[str]:
    """Addresses in getaddrinfo's order. An empty one for a Unix socket or no host, which libpq handles itself."""
    if not host or host.startswith(("/", "@")):
        return [""]
    with suppress(ValueError):
        return [str(ipaddress.ip_address(host))]
    answer: queue.SimpleQueue[list[str] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answer.put([str(one[4][0]) for one in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)])
        except (OSError, ValueError) as error:  # ValueError: the text cannot be a host name
            answer.put(error)

    threading.Thread(target=ask, name="dpone-resolve", daemon=True).start()
    while (left := stopping.left(min(stopping.SLICE, until - time.monotonic()))) > 0:
        with suppress(queue.Empty):
            found = answer.get(timeout=left)
            if isinstance(found, Exception):
                raise psycopg.OperationalError(f"could not resolve host {host}: {_said(found)}") from found
            return found
    why = "the run was interrupted" if stopping.begun() else "no name server answered"
    raise psycopg.OperationalError(f"timeout: could not resolve host {host}: {why}")


def _said(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
