"""
REDIS_URL: one server, a Sentinel's master, or a Cluster; and what is wrong with its text.

Pure.  Every answer about a mistake shows nothing of the address, for a part of it is a password.  How a server is then
reached stands in routes.py.
"""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import msgspec

from streams.topology import suggest

SCHEMES = (
    "redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster",
)  # fmt: skip
_TLS = {
    "ssl_cert_reqs": "none|optional|required", "ssl_check_hostname": "true|false", "ssl_ca_certs": ".+",
    "ssl_certfile": ".+", "ssl_keyfile": ".+",
}  # fmt: skip
_SENTINEL = {"sentinel_username": ".+", "sentinel_password": ".+"}
_PARTS = re.compile(r"[^:/?#]+://([^/?#]*)([^?#]*)(?:\?([^#]*))?(#.*)?", re.DOTALL)
"""Hosts, path, query, fragment; RFC 3986, appendix B.  Newer Pythons' urlsplit takes no IPv6 host beside others."""
_PORTS = {"server": 6379, "sentinel": 26379, "cluster": 6379}
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:\[\]]+)(?::(\d{1,5}))?")

Node = tuple[str, int]
"""A host and a port."""


class Address(msgspec.Struct, frozen=True):
    """A REDIS_URL, taken apart."""

    kind: Literal["server", "sentinel", "cluster"]
    text: str
    """As it was written."""
    tls: bool = False
    login: str = ""
    """`user:password@`, as in a URL."""
    hosts: tuple[Node, ...] = ()
    """Sentinels, or some nodes of the cluster."""
    service: str = ""
    """The name by which the sentinels know the master."""
    options: str = ""
    """`/0?ssl_…`: what is said of the servers themselves."""
    sentinel_login: str = ""

    def node(self, node: Node) -> str:
        """The address of one server behind this one."""
        return self._url(node, self.login, self.options)

    def sentinel(self, node: Node) -> str:
        """The address of one sentinel."""
        return self._url(node, self.sentinel_login, "?" + self.options.partition("?")[2])

    def _url(self, node: Node, login: str, options: str) -> str:
        host = f"[{node[0]}]" if ":" in node[0] else node[0]
        return f"redis{'s' if self.tls else ''}://{login}{host}:{node[1]}{options}"


def parse(text: str) -> Address:
    """
    Take a REDIS_URL apart.

    Raises:
        ValueError: it is none; says what is wrong, and nothing of the address.
    """
    scheme, separator, _ = text.partition("://")
    if not separator or scheme not in SCHEMES:
        # What begins otherwise than with a scheme may begin with the password.
        told = f"starts with {scheme!r}" if separator and re.fullmatch(r"[a-z+]{1,20}", scheme) else "is no address"
        near = suggest(scheme, SCHEMES) if separator else suggest(text, ["embedded"])
        raise ValueError(f"{told}; write {'://, '.join(SCHEMES)}:// or embedded{near}")
    base, _, mode = scheme.partition("+")
    if not mode:
        _check_server(text, base)
        return Address("server", text)
    return _several(text, base, "sentinel" if mode == "sentinel" else "cluster")


def _check_server(text: str, scheme: str) -> None:
    try:
        parts = urlsplit(text)
        plain = parts.port != 0 and not parts.fragment
    except ValueError:
        plain = False
    if not plain:
        raise ValueError("has no port from 1 to 65535; / # ? @ in a password are written %2F %23 %3F %40")
    if scheme == "unix" and (parts.hostname or not parts.path.strip("/")):
        raise ValueError("names no socket; write unix:///path/of/redis.sock")
    if scheme != "unix" and not re.fullmatch(r"(/\d{1,9})?/?", parts.path):
        raise ValueError(f"names no database; write {scheme}://host:6379/0")
    _options(parts.query, {"db": r"\d{1,9}"} | (_TLS if scheme == "rediss" else {}))


def _several(text: str, base: str, kind: Literal["sentinel", "cluster"]) -> Address:
    parts = _PARTS.fullmatch(text)
    assert parts is not None  # noqa: S101 - it has a scheme
    netloc, path, query, fragment = parts.groups("")
    login, _, hosts = netloc.rpartition("@")
    tls = base == "rediss"
    accepted = (_TLS if tls else {}) | (_SENTINEL if kind == "sentinel" else {})
    options = _options(query, accepted)
    if fragment:
        raise ValueError("has a # in it; / # ? @ in a password are written %2F %23 %3F %40")
    if kind == "sentinel":
        found = re.fullmatch(r"/([\w.-]+)((?:/\d{1,9})?)/?", path)
        if not found:
            raise ValueError(f"names no master; write {base}+sentinel://host:26379,host:26379/mymaster")
        service, database = found[1], found[2]
    elif path in ("", "/", "/0"):
        service = database = ""
    else:
        raise ValueError(f"names a database, and a cluster has none; write {base}+cluster://host:6379,host:6379")
    user, password = options.pop("sentinel_username", ""), options.pop("sentinel_password", "")
    return Address(
        kind=kind,
        text=text,
        tls=tls,
        login=login and login + "@",
        hosts=_hosts(hosts, _PORTS[kind]),
        service=service,
        options=database + (f"?{urlencode(options)}" if options else ""),
        sentinel_login=f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else "",
    )


def _hosts(text: str, default: int) -> tuple[Node, ...]:
    found = []
    for part in text.split(","):
        match = _HOST.fullmatch(part)
        port = int(match[2] or default) if match else 0
        if not match or not 0 < port < 65536:
            raise ValueError("has a host that is none; write host:port,host:port with ports from 1 to 65535")
        found.append((match[1].strip("[]"), port))
    return tuple(found)


def _options(query: str, accepted: dict[str, str]) -> dict[str, str]:
    """No others: redis-py lets an option of the address win over what routes.py needs."""
    found = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in accepted or not re.fullmatch(accepted[name], value):
            takes = f"accepted: {', '.join(accepted)}" if accepted else "it takes none"
            raise ValueError(f"has an option that is not accepted; {takes}{suggest(name, accepted)}")
        found[name] = value
    return found
