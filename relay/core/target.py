"""Decides whether the relay may call an address that somebody else gave it.

Subscribers, submitters and the upstream name addresses; the relay must not become their way into the network that it
stands in (SSRF). The decision falls twice, with the same words: over the address as text, when it is saved and before
it is called (`check_url`), and over what its name resolved to, when it is called (`check_addresses`). The transport
then connects to the very address that was judged.

The table is ours because `ipaddress.is_global` calls addresses global that reach inside: NAT64, 6to4, IPv4 in IPv6,
multicast. IPv6 is judged the other way round: only 2000::/3 (all that IANA has given out for global unicast) and NAT64
forms of public IPv4 addresses are called, and the table takes pieces out of that.

A URL is read by this module alone: `Target` carries the parts that are sent, so no second parser reads it otherwise.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from relay.errors import ConfigurationError, InvalidRequest, Problem, TargetRefused

URL_MAX_CHARACTERS = 2048
HOST_MAX_CHARACTERS = 253
MAX_ADDRESSES = 64
"""A name with more addresses than this is refused: each of them is judged."""
MAX_ALLOWED = 256
SETTING = "RELAY_ALLOW_TARGETS"
HOP_HEADER = "relay-hop"
MAX_HOPS = 8

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# What is special about an address, in words, and the networks of that kind; the first match counts. RFC 6890, its
# registry of special addresses, and what clouds answer metadata on.
_KINDS = {
    "metadata": (
        "a cloud's metadata address",
        "100.100.100.200/32",  # Alibaba
        "168.63.129.16/32",  # Azure; a public address that leads to the host
        "169.254.169.254/32",
        "192.0.0.192/32",  # Oracle
        "fd00:ec2::254/128",  # AWS
        "fd20:ce::254/128",  # Google
    ),
    "unspecified": ("an unspecified address", "0.0.0.0/8", "::/128"),  # Linux takes 0.0.0.0 for this machine
    "private": ("a private address", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),
    "shared": ("an address shared behind a provider's NAT", "100.64.0.0/10"),
    "loopback": ("a loopback address", "127.0.0.0/8", "::1/128"),
    "link-local": ("a link-local address", "169.254.0.0/16", "fe80::/10"),
    "protocol": (
        "an address reserved for protocols",
        "192.0.0.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.175.48.0/24",
        "2001::/23",  # Teredo, ORCHID, benchmarks
    ),
    "documentation": (
        "an address for documentation",
        "192.0.2.0/24",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "2001:db8::/32",
        "3fff::/20",
    ),
    "benchmark": ("an address for benchmarks", "198.18.0.0/15"),
    "multicast": ("a multicast address", "224.0.0.0/4", "ff00::/8"),
    "broadcast": ("the broadcast address", "255.255.255.255/32"),
    "reserved": ("a reserved address", "240.0.0.0/4"),
    "transition": (
        "an IPv6 address that stands for an IPv4 address",
        "::/96",  # IPv4-compatible, RFC 4291
        "::ffff:0:0:0/96",  # IPv4-translated, RFC 2765
        "64:ff9b:1::/48",  # NAT64 of one's own network, RFC 8215
        "2002::/16",  # 6to4
    ),
    "site-local": ("a site-local address", "fec0::/10"),
    "discard": ("a discard address", "100::/64"),
}
_BY_NETWORK = frozenset({"private", "shared"})
_BY_HOST = frozenset({"private", "shared", "loopback", "link-local", "metadata"})

_SPECIAL = tuple((ip_network(text), kind) for kind, (_, *networks) in _KINDS.items() for text in networks)
_IPV6_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_ISATAP = frozenset({0x0000_5EFE, 0x0200_5EFE})

_DEFAULT_PORTS = {"http": 80, "https": 443}
# Ports of services that do as they are told by whoever reaches them, or that take a line of HTTP for a command. Part of
# https://fetch.spec.whatwg.org/#port-blocking, and the databases and control doors that are found behind firewalls.
_REFUSED_PORTS = frozenset({
    1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 43, 53, 69, 79, 95, 109, 110, 111, 113, 119, 123, 135, 137,
    139, 143, 161, 179, 389, 445, 465, 512, 513, 514, 515, 532, 540, 548, 554, 563, 587, 601, 636, 873, 989, 990, 993,
    995, 1433, 1521, 1719, 1720, 1723, 2049, 2181, 2375, 2376, 2379, 2380, 3306, 3389, 4045, 4190, 5060, 5061, 5432,
    5900, 6000, 6379, 6380, 6566, 6665, 6666, 6667, 6668, 6669, 6697, 9042, 9200, 9300, 10250, 11211, 27017,
})  # fmt: skip

_PRINTABLE = re.compile(r"[!-~]*\Z")
_SCHEME = re.compile(r"(https?)://", re.IGNORECASE)
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^\[\]:]*)(?::([0-9]{1,5}))?\Z")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_NUMBER = re.compile(r"(0x[0-9a-f]*|[0-9]+)\Z")
_LOCALHOST = frozenset(
    ["localhost", "localhost.localdomain", "localhost6", "localhost6.localdomain6", "ip6-localhost", "ip6-loopback"]
)


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that may be called, in the parts that are sent.

    `host` is a lower-case name without a final dot, or an address in its usual form (IPv6 without brackets); `path` is
    the path and query as given. It may hold a subscriber's secret: show the host alone.
    """

    scheme: str
    host: str
    port: int
    path: str = "/"

    def __repr__(self) -> str:
        return f"Target({self.scheme}://{self.authority}/…)"

    @property
    def authority(self) -> str:
        """What stands in the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS.get(self.scheme) else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Allow:
    """What RELAY_ALLOW_TARGETS permits beyond public addresses: private ranges, and exact hosts with their port."""

    networks: tuple[Network, ...] = ()
    hosts: frozenset[tuple[str, int]] = frozenset()
    own: frozenset[tuple[str, int]] = frozenset()
    """This relay's own doors (see `own_doors`), which are refused whatever is permitted."""

    def permits(self, kind: str, address: Address, host: str, port: int) -> bool:
        """True when an address of this kind may be called: under this name and port, or for the range that it is in."""
        if kind in _BY_HOST and ((host, port) in self.hosts or (str(address), port) in self.hosts):
            return True
        return kind in _BY_NETWORK and any(address in network for network in self.networks)


NOTHING = Allow()


def own_doors(host: str, port: int, public_url: str | None) -> frozenset[tuple[str, int]]:
    """Where this relay is itself: the address that it listens on, and the one that it is known by outside."""
    doors = {("localhost" if host in ("0.0.0.0", "::", "") else _here(host.lower()), port)}  # noqa: S104 # all of ours
    if public_url is not None and (scheme := _SCHEME.match(public_url)):
        target = _target(scheme[1].lower(), public_url[scheme.end() :].partition("/")[0], "/")
        doors.add((_here(target.host), target.port))
    return frozenset(doors)


def check_hops(marks: Sequence[str], instance: str) -> None:
    """Return when a request may make work: it does not come from this instance's own webhooks, nor from too far.

    `marks`: the values of its `HOP_HEADER`, each one or several instances. Whoever hands a webhook on as it came hands
    its mark on, so a ring that leads back here ends at its first turn. `InvalidRequest` when it does.
    """
    hops = [hop.strip() for mark in marks for hop in mark.split(",")]
    if instance in hops:
        message = "this request is one of this relay's own webhooks, handed on to the relay that sent it"
        raise InvalidRequest.field(HOP_HEADER, "loop", message)
    if len(hops) > MAX_HOPS:
        raise InvalidRequest.field(HOP_HEADER, "loop", f"this request has come through more than {MAX_HOPS} relays")


def parse_allow(given: str | Sequence[str]) -> Allow:
    """Read RELAY_ALLOW_TARGETS: items separated by commas, or a sequence of them.

    An item is a private range (`10.1.0.0/16`, `fd12::/64`, a single address) or an exact `host:port`, the only form in
    which loopback and link-local addresses can be allowed. `ConfigurationError` names every item that is neither.
    """
    items = [item.strip() for item in (given.split(",") if isinstance(given, str) else given)]
    networks: list[Network] = []
    hosts: set[tuple[str, int]] = set()
    problems: list[Problem] = []
    for item in filter(None, items[: MAX_ALLOWED + 1]):
        try:
            found = _parse_item(item)
        except ValueError as error:
            problems.append(Problem(SETTING, "target", f"{SETTING}: {item!r} {error}", item))
        else:
            if isinstance(found, tuple):
                hosts.add(found)
            else:
                networks.append(found)
    if len(items) > MAX_ALLOWED:
        problems.append(Problem(SETTING, "length", f"{SETTING} may hold at most {MAX_ALLOWED} items"))
    if problems:
        raise ConfigurationError("; ".join(problem.message for problem in problems), problems=problems)
    return Allow(tuple(networks), frozenset(hosts))


def check_url(url: str, allow: Allow) -> Target:
    """The parts of `url` when the relay may call it, as far as its text shows; else `TargetRefused` (field `url`).

    An address in the host is judged here, a name when it has been resolved. The refusal's `rule` is one of length,
    characters, scheme, userinfo, fragment, host, port, self, address.
    """
    if len(url) > URL_MAX_CHARACTERS:
        raise _refused("length", f"url may have at most {URL_MAX_CHARACTERS} characters")
    # A backslash is a slash to browsers and a letter to others; a tab or line break vanishes in some parsers.
    if not _PRINTABLE.match(url) or "\\" in url:
        sentence = "url may hold printable ASCII characters only, and no backslash: percent-encode others in the path"
        raise _refused("characters", f"{sentence}, and write a host with other letters in its xn-- form")
    scheme = _SCHEME.match(url)
    if scheme is None:
        raise _refused("scheme", "url must begin with http:// or https://")
    if "#" in url:
        raise _refused("fragment", "url must not have a fragment (#…): it would never be sent")
    rest = url[scheme.end() :]
    authority = re.split("[/?]", rest, maxsplit=1)[0]
    path = rest[len(authority) :]
    if "@" in authority:
        raise _refused("userinfo", "url must not hold a user name or password: put a secret into the path instead")
    target = _target(scheme[1].lower(), authority, path if path.startswith("/") else "/" + path)
    _judge_text(target, allow)
    return target


def check_addresses(target: Target, addresses: Sequence[str], allow: Allow) -> str:
    """The address to connect to: the first of `addresses`, all that the target's host resolved to.

    `TargetRefused` when a single one of them is forbidden, for whoever answers for the name chooses their order. The
    sentence does not repeat the address: what a name means inside is nothing for those who may only ask.
    """
    if not addresses:
        raise _refused("address", f"the name {target.host} has no address", target.host)
    if len(addresses) > MAX_ADDRESSES:
        raise _refused("address", f"the name {target.host} has more than {MAX_ADDRESSES} addresses", target.host)
    for text in addresses:
        try:
            address = ip_address(text)
        except ValueError:
            raise _refused("address", f"the name {target.host} has an address that is none", target.host) from None
        _judge_address(address, target, allow)
    return addresses[0]


def _target(scheme: str, authority: str, path: str) -> Target:
    parts = _AUTHORITY.match(authority)
    if parts is None:
        raise _refused("host", "url must hold a host and perhaps a port: https://host:port/path")
    try:
        host = _host(parts[1])
    except ValueError as error:
        raise _refused("host", f"url has a host that {error}") from None
    port = _DEFAULT_PORTS[scheme] if parts[2] is None else int(parts[2])
    if not 1 <= port <= 65535:
        raise _refused("port", "url must have a port from 1 to 65535")
    return Target(scheme, host, port, path)


def _host(text: str) -> str:
    """The one form of a host; `ValueError` with the rest of a sentence when it has none.

    Whatever the system's own parser would take for an IPv4 address (`127.1`, `0x7f.1`, `017700000001`, `2130706433`) is
    refused unless it is written the usual way, for then nobody can read it differently.
    """
    if text.startswith("["):
        try:
            # A zone (fe80::1%eth0) names one of our own interfaces.
            return str(_unmapped(IPv6Address(text[1:-1] if "%" not in text else "")))
        except ValueError:
            raise ValueError("is not an IPv6 address (without a zone)") from None
    host = text.lower().removesuffix(".")
    if not host:
        raise ValueError("is empty")
    labels = host.split(".")
    # https://url.spec.whatwg.org/#ends-in-a-number-checker
    if _NUMBER.match(labels[-1]):
        try:
            return str(IPv4Address(host))
        except ValueError:
            raise ValueError("looks like an address but is not written as four decimal numbers") from None
    if len(host) > HOST_MAX_CHARACTERS or not all(_LABEL.match(label) for label in labels):
        raise ValueError("is not a name (letters, digits, hyphens and dots; no percent-encoding)")
    return host


def _literal(host: str) -> Address | None:
    if not host[-1:].isdigit() and ":" not in host:
        return None  # the usual case, without the price of an exception
    try:
        return ip_address(host)
    except ValueError:
        return None


def _here(host: str) -> str:
    """The host, with one name for all that is this machine."""
    address = _literal(host)
    if address is None:
        return "localhost" if _is_localhost(host) else host
    address = _unmapped(address)
    return "localhost" if address.is_loopback else str(address)


def _judge_own(host: str, target: Target, allow: Allow) -> None:
    if allow.own and (_here(host), target.port) in allow.own:
        subject = "url leads" if host == target.host else f"the name {target.host} leads"
        raise _refused("self", f"{subject} back to this relay itself", target.host)


def _judge_text(target: Target, allow: Allow) -> None:
    _judge_own(target.host, target, allow)
    address = _literal(target.host)
    if address is not None:
        _judge_address(address, target, allow)
    elif _is_localhost(target.host) and (target.host, target.port) not in allow.hosts:
        raise _refused("address", f"url names this machine ({target.host}){_hint('loopback', target)}", target.host)
    if target.port in _REFUSED_PORTS and (target.host, target.port) not in allow.hosts:
        raise _refused("port", f"url has port {target.port}, which the relay does not call", target.port)


def _judge_address(address: Address, target: Target, allow: Allow) -> None:
    address = _unmapped(address)
    _judge_own(str(address), target, allow)
    kind = kind_of(address)
    if kind is None or allow.permits(kind, address, target.host, target.port):
        return
    subject = "url has" if _literal(target.host) else f"the name {target.host} resolves to"
    raise _refused("address", f"{subject} {_KINDS[kind][0]}{_hint(kind, target)}", target.host)


def kind_of(address: Address) -> str | None:
    """What kind of special address this is (`private`, `loopback`, …), or None for one that everybody may call."""
    address = _unmapped(address)
    for network, kind in _SPECIAL:
        if address in network:
            return kind
    if isinstance(address, IPv4Address):
        return None
    embedded = IPv4Address(int(address) & 0xFFFF_FFFF)
    if address in _NAT64:
        # Where there is no IPv4, DNS64 makes these for every public IPv4 host.
        return "transition" if kind_of(embedded) else None
    if address not in _IPV6_UNICAST:
        return "reserved"
    if int(address) >> 32 & 0xFFFF_FFFF in _ISATAP and kind_of(embedded):
        return "transition"
    return None


def _is_localhost(host: str) -> bool:
    return host in _LOCALHOST or host.endswith(".localhost")


def _hint(kind: str, target: Target) -> str:
    if kind in _BY_NETWORK:
        return f": the relay calls it only when {SETTING} allows it"
    if kind in _BY_HOST:
        host = f"[{target.host}]" if ":" in target.host else target.host
        return f": the relay calls it only when {SETTING} names {host}:{target.port}"
    return ", which the relay does not call"


def _parse_item(item: str) -> Network | tuple[str, int]:
    """One item of the setting; `ValueError` with the rest of a sentence about it."""
    if "/" in item or _literal(item) is not None:
        return _parse_network(item)
    parts = _AUTHORITY.match(item)
    if not _PRINTABLE.match(item) or parts is None or parts[2] is None:
        raise ValueError("is neither a range such as 10.1.0.0/16 nor an exact host:port")
    port = int(parts[2])
    if not 1 <= port <= 65535:
        raise ValueError("has a port that is not between 1 and 65535")
    try:
        host = _host(parts[1])
    except ValueError as error:
        raise ValueError(f"has a host that {error}") from None
    address = _literal(host)
    kind = kind_of(address) if address is not None else None
    if kind is not None and kind not in _BY_HOST:
        raise ValueError(f"is {_KINDS[kind][0]}, which cannot be allowed")
    return str(_unmapped(address)) if address is not None else host, port


def _unmapped(address: Address) -> Address:
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _parse_network(item: str) -> Network:
    try:
        network = ip_network(item)
    except ValueError as error:
        raise ValueError(f"is not a range: {error}") from None
    if not any(network[0] in outer and network[-1] in outer for outer, kind in _SPECIAL if kind in _BY_NETWORK):
        if kind_of(network.network_address) in _BY_HOST:
            raise ValueError("is not a private range: loopback and link-local are allowed only as an exact host:port")
        raise ValueError("is not a private range: public addresses need no entry, and others cannot be allowed")
    return network


def _refused(rule: str, sentence: str, given: str | int | None = None) -> TargetRefused:
    return TargetRefused(sentence, problems=[Problem("url", rule, sentence, given)])
