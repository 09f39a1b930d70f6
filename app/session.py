"""State of one visitor between two clicks, and the identity by which visitors are told apart."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class SessionState:
    """`picture` is `example:<number>` or `upload:<path>`, with a line for each where there are several files."""

    picture: str = "example:0"

    @classmethod
    def of_files(cls, paths: Iterable[str]) -> SessionState:
        return cls("upload:" + "\n".join(paths))


@dataclass(frozen=True, slots=True)
class Visitor:
    """`session` is one opened page, or one program; a reload makes a new one. `host` is the address it comes from."""

    session: str
    host: str = ""


def visitor_of(request: Any) -> Visitor:
    """Return the visitor of a `gr.Request`. Behind a proxy on this computer it is the one that the proxy forwards."""
    client = request.client
    return Visitor(request.session_hash or "", network(client.host) if client is not None else "")


def network(host: str) -> str:
    """Return the address by which a host is counted: an IPv6 address by its /64 network."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return host
    return str(address.ipv4_mapped or ipaddress.ip_network((host.partition("%")[0], 64), strict=False))
