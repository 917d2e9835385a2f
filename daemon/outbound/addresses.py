"""Where nothing may be sent, and the one step from a name to the addresses that may be connected to.

Callback URLs come from customers.  Without a check, one that points at the operator's own network makes the
daemon a way into it.  A check of the *name* is worthless, because the name may resolve to something else a
moment later (rebinding): so a name is resolved here, every address is judged here, and the sender connects
to the very addresses that it got.

Allowed are, of IPv4, all but the special-purpose blocks; of IPv6, only global unicast (2000::/3) less
special-purpose blocks.  The blocks are those of the IANA IPv4 and IPv6 Special-Purpose Address Registries
(RFC 6890 and its updates) that are not for use on the open internet.  Addresses that carry an IPv4 address
inside are as good as that one.
"""

import asyncio
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from daemon.errors import AddressRefused, Invalid, NotSent
from daemon.outbound.target import target

Ip = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Lookup = Callable[[str, int], Awaitable[Sequence[str]]]
"""Resolves a host and port to addresses; raises `OSError` when it cannot."""

KEY = "[outbound] allow_networks"

_SPECIAL_V4 = {
    ip_network(block): kind
    for block, kind in {
        "0.0.0.0/32": "the unspecified address",
        "0.0.0.0/8": "an address of this network",
        "10.0.0.0/8": "a private address",
        "100.64.0.0/10": "a carrier's private address",
        "127.0.0.0/8": "a loopback address",
        "168.63.129.16/32": "a cloud's metadata address",  # Azure: public by number, local by meaning
        "169.254.169.254/32": "a cloud's metadata address",
        "169.254.0.0/16": "a link-local address",
        "172.16.0.0/12": "a private address",
        "192.0.0.0/24": "a reserved address",
        "192.0.2.0/24": "an address for documentation",
        "192.88.99.0/24": "a reserved address",
        "192.168.0.0/16": "a private address",
        "198.18.0.0/15": "an address for benchmarks",
        "198.51.100.0/24": "an address for documentation",
        "203.0.113.0/24": "an address for documentation",
        "224.0.0.0/4": "a multicast address",
        "240.0.0.0/4": "a reserved address",
    }.items()
}
_SPECIAL_V6 = {
    ip_network(block): kind
    for block, kind in {
        "::/128": "the unspecified address",
        "::1/128": "a loopback address",
        "64:ff9b:1::/48": "a private NAT64 address",
        "2001::/32": "a Teredo address",
        "2001::/23": "a reserved address",
        "2001:db8::/32": "an address for documentation",
        "3fff::/20": "an address for documentation",
        "fc00::/7": "a private address",
        "fd00:ec2::254/128": "a cloud's metadata address",
        "fe80::/10": "a link-local address",
        "fec0::/10": "a private address",
        "ff00::/8": "a multicast address",
    }.items()
}
_LOOPBACK = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
_GLOBAL_V6 = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are the IPv4 address

# What inet_aton takes for an address besides four decimal numbers: 127.1, 0x7f000001, 017700000001.
_NUMERIC = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+)){0,3}\.?")


@dataclass(frozen=True, slots=True)
class Address:
    """An address that was checked, and the port on it."""

    ip: Ip
    port: int

    @property
    def family(self) -> socket.AddressFamily:
        """The address family of a socket that connects to it."""
        return socket.AF_INET if isinstance(self.ip, IPv4Address) else socket.AF_INET6

    @property
    def sockaddr(self) -> tuple[str, int]:
        """What `connect` takes."""
        return (str(self.ip), self.port)


@dataclass(slots=True)
class _Known:
    until: float
    addresses: tuple[Address, ...] = ()
    failure: type[NotSent] = NotSent
    reason: str = ""


@dataclass(slots=True, kw_only=True)
class AddressPolicy:
    """Resolves hosts and refuses addresses, except those in the networks that the operator allowed.

    A lookup takes at most *timeout* seconds.  Its addresses are kept for *keep* seconds and its failure for
    *keep_failure*, for at most *most* hosts; lookups of one host at the same time are one lookup.
    """

    allow: Sequence[Network] = ()
    timeout: float = 5.0
    keep: float = 30.0
    keep_failure: float = 1.0
    most: int = 4096
    lookup: Lookup | None = None
    clock: Callable[[], float] = time.monotonic
    _known: dict[tuple[str, int], _Known] = field(default_factory=dict, init=False, repr=False)
    _asked: dict[tuple[str, int], asyncio.Future[None]] = field(
        default_factory=dict, init=False, repr=False
    )

    def refusal(self, ip: Ip) -> str | None:
        """What kind of address *ip* is when nothing may be sent to it; None when something may."""
        if any(ip in network for network in self.allow):
            return None
        if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
            return self.refusal(ip.ipv4_mapped)  # the kernel connects to the IPv4 address
        if isinstance(ip, IPv4Address):
            return _kind(ip, _SPECIAL_V4)
        carried = _carried(ip)
        if carried is not None:
            refused = self.refusal(carried)
            return refused and f"{refused} ({carried}) inside an IPv6 address"
        return _kind(ip, _SPECIAL_V6) or (None if ip in _GLOBAL_V6 else "a reserved address")

    def check_url(self, url: str) -> str | None:
        """What is wrong with *url* as a callback's, as far as it can be seen without a lookup; None: nothing.

        The sentence continues "the URL …".  A name is judged when something is sent.
        """
        try:
            host = target(url).host
        except Invalid as error:
            return error.problems["url"]
        ip = _literal(host)
        # RFC 6761: these names are loopback, whatever a resolver says, by one of two addresses.
        local = host.rstrip(".") == "localhost" or host.rstrip(".").endswith(".localhost")
        ips = _LOOPBACK if local else () if ip is None else (ip,)
        kinds = [self.refusal(ip) for ip in ips]
        if not kinds or None in kinds:
            return None
        return f"points at {kinds[0]}; the operator can allow its network in `{KEY}`"

    def known(self, host: str, port: int) -> tuple[Address, ...] | None:
        """The addresses that a recent `resolve` returned, without waiting; None when there are none."""
        known = self._known.get((host, port))
        if known is None or not known.addresses or known.until <= self.clock():
            return None
        return known.addresses

    async def resolve(self, host: str, port: int) -> tuple[Address, ...]:
        """The addresses of *host* that may be connected to, at least one.

        *host* is ASCII, as in `Target`.  Raises `AddressRefused` when it has addresses but none is allowed,
        `NotSent` when it cannot be resolved.
        """
        key = (host, port)
        while (known := self._known.get(key)) is None or known.until <= self.clock():
            asked = self._asked.get(key)
            if asked is not None:
                # Somebody asks already.  If that one is cancelled, one of those who wait here asks anew.
                await asyncio.wait((asked,))
                continue
            asked = self._asked[key] = asyncio.get_running_loop().create_future()
            try:
                self._keep(key, known := await self._ask(host, port))
            finally:
                del self._asked[key]
                asked.set_result(None)
            break  # also when `keep` is 0
        if not known.addresses:
            raise known.failure(known.reason)
        return known.addresses

    async def _ask(self, host: str, port: int) -> _Known:
        literal = _literal(host)
        try:
            async with asyncio.timeout(self.timeout):
                found = (
                    [str(literal)] if literal else await (self.lookup or _getaddrinfo)(host, port)
                )
        except TimeoutError:
            return self._failed(f"{host} was not resolved within {self.timeout:g} s")
        except OSError as error:
            return self._failed(f"{host} cannot be resolved: {error.strerror or error}")
        except UnicodeError:
            return self._failed(f"{host} is not a name that can be resolved")
        ips = list(dict.fromkeys(ip_address(text) for text in found))
        addresses = tuple(Address(ip, port) for ip in ips if self.refusal(ip) is None)
        if addresses:
            return _Known(self.clock() + self.keep, addresses)
        if not ips:
            return self._failed(f"{host} has no address")
        refused = ", ".join(f"{ip}, {self.refusal(ip)}" for ip in ips[:4])
        where = refused if literal else f"{host} is at {refused}"
        return self._failed(
            f"nothing is sent there: {where}; the operator can allow the network in `{KEY}`",
            AddressRefused,
        )

    def _failed(self, reason: str, failure: type[NotSent] = NotSent) -> _Known:
        return _Known(self.clock() + self.keep_failure, failure=failure, reason=reason)

    def _keep(self, key: tuple[str, int], known: _Known) -> None:
        self._known.pop(key, None)
        while len(self._known) >= self.most:
            del self._known[next(iter(self._known))]  # the one kept longest
        self._known[key] = known


async def _getaddrinfo(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # A scope (`fe80::1%eth0`) only ever belongs to a link-local address.
    return [str(sockaddr[0]).partition("%")[0] for *_, sockaddr in found]


def _literal(host: str) -> Ip | None:
    """The address that *host* is, without any lookup; None for a name."""
    if _NUMERIC.fullmatch(host):
        try:
            return IPv4Address(socket.inet_aton(host.rstrip(".")))
        except OSError:
            return None
    try:
        return ip_address(host)
    except ValueError:
        return None


def _carried(ip: IPv6Address) -> IPv4Address | None:
    """The IPv4 address inside *ip*, for the two forms that a gateway on the way unpacks."""
    return IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else ip.sixtofour


def _kind(ip: Ip, blocks: dict[Network, str]) -> str | None:
    """What the narrowest of *blocks* that *ip* lies in says."""
    found: Iterable[Network] = (block for block in blocks if ip in block)
    narrowest = max(found, key=lambda block: block.prefixlen, default=None)
    return None if narrowest is None else blocks[narrowest]
