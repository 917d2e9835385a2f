"""Which addresses may be connected to, and that judging is the same step as resolving."""

import asyncio
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daemon.errors import AddressRefused, NotSent
from daemon.outbound.addresses import Address, AddressPolicy

DEFAULT = AddressPolicy()

REFUSED = {
    "0.0.0.0": "unspecified",  # noqa: S104 - an address to refuse, nothing is bound to it
    "0.1.2.3": "this network",
    "10.0.0.1": "private",
    "100.64.0.1": "private",
    "100.100.100.200": "private",
    "127.0.0.1": "loopback",
    "127.255.255.255": "loopback",
    "168.63.129.16": "metadata",
    "169.254.169.254": "metadata",
    "169.254.1.1": "link-local",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.0.0.192": "reserved",
    "192.0.2.1": "documentation",
    "192.88.99.1": "reserved",
    "192.168.1.1": "private",
    "198.19.255.255": "benchmarks",
    "198.51.100.7": "documentation",
    "203.0.113.7": "documentation",
    "224.0.0.1": "multicast",
    "239.255.255.255": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "reserved",
    "::": "unspecified",
    "::1": "loopback",
    "::10.0.0.1": "reserved",
    "::ffff:10.0.0.1": "private",
    "::ffff:169.254.169.254": "metadata",
    "64:ff9b::10.0.0.1": "private",
    "64:ff9b::169.254.169.254": "metadata",
    "64:ff9b:1::8.8.8.8": "private NAT64",
    "100::1": "reserved",
    "2001::1": "Teredo",
    "2001:0:a00:1::f5ff:fffe": "Teredo",
    "2001:20::1": "reserved",
    "2001:db8::1": "documentation",
    "2002:0a00:0001::1": "private",
    "2002:7f00:0001::": "loopback",
    "3fff::1": "documentation",
    "4000::1": "reserved",
    "5f00::1": "reserved",
    "fc00::1": "private",
    "fd00:ec2::254": "metadata",
    "fdff::1": "private",
    "fe80::1": "link-local",
    "fec0::1": "private",
    "ff02::1": "multicast",
}
PERMITTED = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.1",
    "172.15.255.255",
    "172.32.0.0",
    "192.167.255.255",
    "198.17.255.255",
    "223.255.255.255",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2002:0808:0808::1",
    "2606:4700::1111",
    "3ffe::1",
]
v4 = st.ip_addresses(v=4)


@pytest.mark.parametrize(("text", "kind"), REFUSED.items())
def test_refused(text, kind):
    """Nothing is sent to an address that is not for the open internet, and the refusal says what it is."""
    assert kind in (DEFAULT.refusal(ip_address(text)) or "")


@pytest.mark.parametrize("text", PERMITTED)
def test_permitted(text):
    """The neighbours of the refused blocks, and the rest of the internet, are not refused."""
    assert DEFAULT.refusal(ip_address(text)) is None


@given(st.ip_addresses())
@example(ip_address("192.0.0.9"))
def test_nothing_is_permitted_that_the_standard_library_calls_local(ip):
    """Whatever `ipaddress` calls private, local or multicast is refused: an independent table agrees."""
    carrier = ip in ip_network("::ffff:0:0/96") or ip in ip_network("64:ff9b::/96")
    if ip.is_private or ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_reserved:
        assert carrier or DEFAULT.refusal(ip)


@given(st.one_of(v4, st.sampled_from([ip_address(text) for text in REFUSED if "." in text[:4]])))
def test_an_address_inside_another_is_as_good_as_by_itself(ip):
    """Mapped, 6to4 and NAT64 forms of an IPv4 address are refused exactly when it is."""
    if isinstance(ip, IPv6Address):
        return
    number = int(ip)
    forms = [
        IPv6Address((0xFFFF << 32) | number),
        IPv6Address((0x2002 << 112) | (number << 80) | 1),
        IPv6Address((0x64FF9B << 96) | number),
    ]
    refused = DEFAULT.refusal(ip) is not None

    assert [refused] * 3 == [DEFAULT.refusal(form) is not None for form in forms]


@given(v4, v4)
def test_a_teredo_address_is_never_permitted(server, client):
    """Whatever server and client a Teredo address holds, it is refused."""
    hidden = int(client) ^ 0xFFFFFFFF
    ip = IPv6Address((0x20010000 << 96) | (int(server) << 64) | hidden)

    assert DEFAULT.refusal(ip)


@given(st.ip_addresses(), st.integers(0, 32))
def test_what_the_operator_allowed_is_permitted_and_nothing_else(ip, length):
    """An allowed network permits its addresses, and leaves every other judgement as it was."""
    network = ip_network((ip, length), strict=False)
    policy = AddressPolicy(allow=[network])
    outside = ip_address("10.9.9.9"), ip_address("fd00::9")

    assert policy.refusal(ip) is None
    for other in outside:
        if other not in network:
            assert policy.refusal(other)


def test_an_allowed_network_also_permits_its_addresses_inside_others():
    """The operator allows 10/8; the mapped and the NAT64 form mean the same host."""
    policy = AddressPolicy(allow=[ip_network("10.0.0.0/8")])

    assert policy.refusal(ip_address("::ffff:10.0.0.1")) is None
    assert policy.refusal(ip_address("64:ff9b::10.0.0.1")) is None
    assert policy.refusal(ip_address("::ffff:192.168.0.1"))


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("https://example.com/hook?x=1", None),
        ("http://bücher.example/", None),
        ("https://8.8.8.8:8443/", None),
        ("https://[2606:4700::1111]/", None),
        ("ftp://example.com/", "https://"),
        ("example.com/hook", "https://"),
        ("", "https://"),
        ("https:///hook", "host"),
        ("https://exa_mple..com/", "host"),
        ("https://user:pw@example.com/", "password"),
        ("https://@example.com/", "password"),
        ("https://example.com:0/", "port"),
        ("https://example.com:70000/", "not a URL"),
        ("https://[::1/", "not a URL"),
        ("https://[fe80::1%25eth0]/", "interface"),
        ("https://example.com/a b", "blanks"),
        ("https://example.com/\r\nX: y", "blanks"),
        ("https://example.com\\@10.0.0.1/", "backslashes"),
        ("http://127.0.0.1/", "loopback"),
        ("http://127.1/", "loopback"),
        ("http://2130706433/", "loopback"),
        ("http://0x7f.1/", "loopback"),
        ("http://017700000001/", "loopback"),
        ("http://127.0.0.1./", "loopback"),
        ("http://[::1]/", "loopback"),
        ("http://[::ffff:7f00:1]/", "loopback"),
        ("http://localhost:8080/", "loopback"),
        ("http://api.LOCALHOST./", "loopback"),
        ("http://169.254.169.254/latest/meta-data", "metadata"),
        ("http://①②⑦.⓪.⓪.①/", "loopback"),
    ],
)
def test_check_url(url, problem):
    """What can never work, or never be permitted, is said when a callback is configured."""
    found = DEFAULT.check_url(url)

    assert found == problem if problem is None else problem in (found or "")


def test_check_url_names_the_key_and_obeys_it():
    """The refusal names the configuration key; the operator who sets it is obeyed."""
    assert "[outbound] allow_networks" in DEFAULT.check_url("http://10.1.2.3/")
    assert AddressPolicy(allow=[ip_network("10.0.0.0/8")]).check_url("http://10.1.2.3/") is None
    assert AddressPolicy(allow=[ip_network("::1/128")]).check_url("http://localhost/") is None


class Resolver:
    """Answers lookups from a list, in order, and counts them; an entry may be an error or an event."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, host, port):
        self.asked += 1
        answer = self.answers.pop(0)
        if isinstance(answer, asyncio.Event):
            await answer.wait()
            answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_only_permitted_addresses_are_returned():
    """Of a name with a public and a private address only the public one may be connected to."""
    policy = AddressPolicy(lookup=Resolver(["10.0.0.1", "1.1.1.1", "::1", "1.1.1.1"]))

    addresses = asyncio.run(policy.resolve("split.example", 443))

    assert (Address(IPv4Address("1.1.1.1"), 443),) == addresses
    assert (socket.AF_INET, ("1.1.1.1", 443)) == (addresses[0].family, addresses[0].sockaddr)
    assert addresses == policy.known("split.example", 443)


def test_a_refusal_names_host_address_and_key():
    """Whoever reads the error knows what resolved to what, and what to configure."""
    policy = AddressPolicy(lookup=Resolver(["10.0.0.1"]))

    with pytest.raises(AddressRefused) as caught:
        asyncio.run(policy.resolve("inside.example", 443))

    for part in ("inside.example", "10.0.0.1", "private", "[outbound] allow_networks"):
        assert part in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "0x7f000001", "::1", "169.254.169.254"])
def test_a_literal_address_needs_no_lookup(host):
    """An address in any spelling is judged by itself, without asking a resolver."""
    resolver = Resolver()

    with pytest.raises(AddressRefused):
        asyncio.run(AddressPolicy(lookup=resolver).resolve(host, 80))
    assert 0 == resolver.asked


def test_localhost_is_resolved_and_refused():
    """The system's resolver is really asked, and its answer really judged."""
    with pytest.raises(AddressRefused, match="loopback"):
        asyncio.run(AddressPolicy().resolve("localhost", 80))


def test_a_name_that_does_not_exist_is_not_sent():
    """A failed lookup is no refusal: it may work later."""
    failed = Resolver(socket.gaierror(socket.EAI_NONAME, "Name or service not known"), [])
    policy = AddressPolicy(lookup=failed, keep_failure=0)

    for reason in ("Name or service not known", "no address"):
        with pytest.raises(NotSent, match=reason) as caught:
            asyncio.run(policy.resolve("nowhere.example", 80))
        assert not isinstance(caught.value, AddressRefused)


def test_a_lookup_is_bounded_in_time():
    """A resolver that does not answer ends as not sent."""

    async def main():
        await AddressPolicy(lookup=Resolver(asyncio.Event()), timeout=0.01).resolve(
            "slow.example", 80
        )

    with pytest.raises(NotSent, match=r"0\.01 s"):
        asyncio.run(main())


def test_answers_are_kept_for_a_while_and_not_longer():
    """Within the time an answer is reused; after it a name that moved inside is refused: no rebinding."""
    now = 0.0
    resolver = Resolver(["1.1.1.1"], ["127.0.0.1"], ["1.0.0.1"])
    policy = AddressPolicy(lookup=resolver, clock=lambda: now, keep=30, keep_failure=1)

    async def main():
        nonlocal now
        first = await policy.resolve("a.example", 80)
        now = 29.9
        assert first == await policy.resolve("a.example", 80)
        assert 1 == resolver.asked
        now = 30.0
        assert policy.known("a.example", 80) is None
        for later in (30.0, 30.9):
            now = later
            with pytest.raises(AddressRefused):
                await policy.resolve("a.example", 80)
            assert policy.known("a.example", 80) is None
        assert 2 == resolver.asked
        now = 31.0
        assert IPv4Address("1.0.0.1") == (await policy.resolve("a.example", 80))[0].ip

    asyncio.run(main())


def test_the_cache_is_bounded():
    """A thousand names leave no more behind than the limit, the latest among them."""
    policy = AddressPolicy(lookup=Resolver(*[["1.1.1.1"]] * 1000), most=10)

    async def main():
        for n in range(1000):
            await policy.resolve(f"{n}.example", 80)

    asyncio.run(main())
    assert 10 == len(policy._known)
    assert policy.known("999.example", 80)


def test_lookups_of_one_name_at_once_are_one():
    """Many deliveries to one host ask once; when the one who asks is cancelled, another asks."""
    event = asyncio.Event()
    resolver = Resolver(event, ["1.1.1.1"])

    async def main():
        policy = AddressPolicy(lookup=resolver)
        tasks = [asyncio.create_task(policy.resolve("a.example", 80)) for _ in range(20)]
        await asyncio.sleep(0)
        assert 1 == resolver.asked
        tasks[0].cancel()
        await asyncio.wait(tasks[1:])
        assert tasks[0].cancelled()
        assert 1 == len({task.result() for task in tasks[1:]})
        assert 2 == resolver.asked
        assert {} == policy._asked

    asyncio.run(main())
