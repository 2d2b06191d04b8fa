"""What the relay may call: addresses by class and notation, URLs by rule, what the setting allows."""

from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.target import (
    HOP_HEADER,
    MAX_ADDRESSES,
    MAX_HOPS,
    NOTHING,
    Allow,
    Target,
    check_addresses,
    check_hops,
    check_url,
    kind_of,
    own_doors,
    parse_allow,
)
from relay.errors import ConfigurationError, InvalidRequest, TargetRefused

FORBIDDEN_IPV4 = {
    "0.0.0.0/8": "unspecified",
    "10.0.0.0/8": "private",
    "100.64.0.0/10": "shared",
    "127.0.0.0/8": "loopback",
    "169.254.0.0/16": "link-local",
    "172.16.0.0/12": "private",
    "192.0.0.0/24": "protocol",
    "192.0.2.0/24": "documentation",
    "192.31.196.0/24": "protocol",
    "192.52.193.0/24": "protocol",
    "192.88.99.0/24": "protocol",
    "192.168.0.0/16": "private",
    "192.175.48.0/24": "protocol",
    "198.18.0.0/15": "benchmark",
    "198.51.100.0/24": "documentation",
    "203.0.113.0/24": "documentation",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved",
}
FORBIDDEN_IPV6 = {
    "::/96": "transition",
    "::ffff:0:0:0/96": "transition",
    "64:ff9b:1::/48": "transition",
    "100::/64": "discard",
    "2001::/32": "protocol",
    "2001:2::/48": "protocol",
    "2001:10::/28": "protocol",
    "2001:20::/28": "protocol",
    "2001:db8::/32": "documentation",
    "2002::/16": "transition",
    "3fff::/20": "documentation",
    "5f00::/16": "reserved",
    "fc00::/7": "private",
    "fe80::/10": "link-local",
    "fec0::/10": "site-local",
    "ff00::/8": "multicast",
    "4000::/2": "reserved",
    "8000::/2": "reserved",
}
# https://fetch.spec.whatwg.org/#port-blocking, and databases and control doors.
REFUSED_PORTS = {
    *(1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 43, 53, 69, 79, 95, 109, 110, 111, 113, 119, 123, 135, 137),
    *(139, 143, 161, 179, 389, 445, 465, 512, 513, 514, 515, 532, 540, 548, 554, 563, 587, 601, 636, 873, 989, 990),
    *(993, 995, 1433, 1521, 1719, 1720, 1723, 2049, 2181, 2375, 2376, 2379, 2380, 3306, 3389, 4045, 4190, 5060, 5061),
    *(5432, 5900, 6000, 6379, 6380, 6566, 6665, 6666, 6667, 6668, 6669, 6697, 9042, 9200, 9300, 10250, 11211, 27017),
}
METADATA = ["169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"]
PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "172.15.255.255", "172.32.0.0", "100.63.255.255", "100.128.0.0"]
PUBLIC += ["2606:4700:4700::1111", "2a00:1450:4001::1", "2400:cb00::1", "64:ff9b::808:808", "::ffff:8.8.8.8"]


def within(block: str) -> st.SearchStrategy[str]:
    network = ip_network(block)
    first, last = int(network.network_address), int(network.broadcast_address)
    kind = IPv4Address if network.version == 4 else IPv6Address
    return st.one_of(st.just(first), st.just(last), st.integers(first, last)).map(lambda value: str(kind(value)))


def refusal(url: str, allow: Allow = NOTHING) -> TargetRefused:
    with pytest.raises(TargetRefused) as caught:
        check_url(url, allow)
    problem = caught.value.problems[0]
    assert problem.field == "url"
    assert problem.message == str(caught.value)
    return caught.value


def rule_of(url: str, allow: Allow = NOTHING) -> str:
    return refusal(url, allow).problems[0].rule


def url_of(address: str, port: str = "") -> str:
    return f"http://[{address}]{port}/hook" if ":" in address else f"http://{address}{port}/hook"


def resolved(addresses: list[str], allow: Allow = NOTHING, host: str = "hook.example", port: int = 443) -> str:
    return check_addresses(Target("https", host, port), addresses, allow)


# --- addresses by class


@pytest.mark.parametrize(("block", "kind"), [*FORBIDDEN_IPV4.items(), *FORBIDDEN_IPV6.items()])
@given(data=st.data())
def test_every_address_of_a_special_block_is_refused_as_a_literal_and_as_an_answer(
    block: str, kind: str, data: st.DataObject
) -> None:
    address = data.draw(within(block))
    assert kind_of(ip_address(address)) in {kind, "metadata", "loopback", "unspecified", "broadcast"}
    assert rule_of(url_of(address)) == "address"
    with pytest.raises(TargetRefused):
        resolved([address])


@pytest.mark.parametrize("block", FORBIDDEN_IPV4)
@given(data=st.data())
def test_a_forbidden_ipv4_address_is_refused_in_every_ipv6_form(block: str, data: st.DataObject) -> None:
    address = IPv4Address(data.draw(within(block)))
    value = int(address)
    prefixes = {
        "mapped": 0xFFFF << 32,
        "compatible": 0,
        "translated": 0xFFFF << 48,
        "nat64": 0x0064_FF9B << 96,
        "local nat64": 0x0064_FF9B_0001 << 80,
        "isatap": 0x2A00_1450 << 96 | 0x5EFE << 32,
        "isatap with the universal bit": 0x2A00_1450 << 96 | 0x0200_5EFE << 32,
    }
    forms = {name: IPv6Address(prefix | value) for name, prefix in prefixes.items()}
    forms["6to4"] = IPv6Address(0x2002 << 112 | value << 80)
    forms["teredo"] = IPv6Address(0x2001_0000 << 96 | value ^ 0xFFFF_FFFF)
    for name, form in forms.items():
        assert kind_of(form) is not None, name
        with pytest.raises(TargetRefused):
            resolved([str(form)])
        assert rule_of(f"https://[{form}]/") == "address", name


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_called(address: str) -> None:
    assert kind_of(ip_address(address)) is None
    assert resolved([address]) == address
    check_url(url_of(address), NOTHING)


@given(value=st.integers(0, 2**32 - 1))
def test_an_ipv4_address_is_public_exactly_when_no_block_holds_it(value: int) -> None:
    address = IPv4Address(value)
    special = any(address in ip_network(block) for block in FORBIDDEN_IPV4) or str(address) in METADATA
    assert (kind_of(address) is not None) == special


@given(value=st.integers(0, 2**128 - 1))
def test_an_ipv6_address_outside_2000_3_is_public_only_as_nat64_or_mapped_form_of_a_public_one(value: int) -> None:
    address = IPv6Address(value)
    if kind_of(address) is None and address not in ip_network("2000::/3"):
        assert address in ip_network("64:ff9b::/96") or address in ip_network("::ffff:0:0/96")


@pytest.mark.parametrize(
    ("address", "kind"),
    [("255.255.255.255", "broadcast"), ("::", "unspecified"), ("::1", "loopback"), ("::2", "transition")],
)
def test_an_address_with_a_name_of_its_own_is_called_by_it(address: str, kind: str) -> None:
    assert kind_of(ip_address(address)) == kind


@pytest.mark.parametrize(("first", "last"), [("172.16.0.0", "172.31.255.255"), ("fc00::", "fdff:ffff::")])
def test_a_block_ends_where_the_registry_says(first: str, last: str) -> None:
    assert kind_of(ip_address(first)) == kind_of(ip_address(last)) == "private"
    assert kind_of(ip_address(int(ip_address(first)) - 1)) != "private"


@pytest.mark.parametrize("address", METADATA)
def test_a_clouds_metadata_is_refused_even_within_an_allowed_range(address: str) -> None:
    allow = parse_allow("100.64.0.0/10, fc00::/7")
    assert kind_of(ip_address(address)) == "metadata"
    assert "metadata" in str(refusal(url_of(address), allow))


@pytest.mark.parametrize("address", METADATA)
def test_what_lies_beside_a_clouds_metadata_is_not_called_so(address: str) -> None:
    for step in (-1, 1):
        assert kind_of(type(ip_address(address))(int(ip_address(address)) + step)) != "metadata"


@pytest.mark.parametrize(
    ("addresses", "word"),
    [
        (["8.8.8.8", "10.0.0.1"], "private"),
        (["10.0.0.1", "8.8.8.8"], "private"),
        (["8.8.8.8", "2606:4700::1111", "::1"], "loopback"),
        (["8.8.8.8", "fe80::1%eth0"], "link-local"),
        (["8.8.8.8", "not an address"], "none"),
        ([], "no address"),
        (["8.8.8.8"] * (MAX_ADDRESSES + 1), "more than"),
    ],
)
def test_one_bad_answer_among_good_ones_refuses_the_name(addresses: list[str], word: str) -> None:
    with pytest.raises(TargetRefused, match=word) as caught:
        resolved(addresses)
    assert caught.value.problems[0].rule == "address"


def test_as_many_addresses_as_the_bound_are_judged() -> None:
    assert resolved(["8.8.8.8"] * MAX_ADDRESSES) == "8.8.8.8"


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (
            "http://10.0.0.1:3000/",
            "url has a private address: the relay calls it only when RELAY_ALLOW_TARGETS allows it",
        ),
        (
            "http://127.0.0.1:3000/",
            "url has a loopback address: the relay calls it only when RELAY_ALLOW_TARGETS names 127.0.0.1:3000",
        ),
        (
            "http://[fe80::1]/",
            "url has a link-local address: the relay calls it only when RELAY_ALLOW_TARGETS names [fe80::1]:80",
        ),
        ("http://224.0.0.1/", "url has a multicast address, which the relay does not call"),
        (
            "http://localhost:3000/",
            "url names this machine (localhost): the relay calls it only when RELAY_ALLOW_TARGETS names localhost:3000",
        ),
    ],
)
def test_a_refusal_says_what_it_is_and_how_it_could_be_allowed(url: str, sentence: str) -> None:
    assert str(refusal(url)) == sentence


def test_a_name_is_refused_in_the_words_for_names() -> None:
    with pytest.raises(TargetRefused) as caught:
        resolved(["10.0.0.1"])
    assert str(caught.value).startswith("the name hook.example resolves to a private address: the relay calls it only")


def test_a_refused_name_does_not_tell_what_it_resolves_to_inside() -> None:
    with pytest.raises(TargetRefused) as caught:
        resolved(["10.20.30.40"])
    assert "10.20" not in str(caught.value)
    assert "hook.example" in str(caught.value)


def test_the_first_of_good_answers_is_the_one_to_connect_to() -> None:
    assert resolved(["2606:4700::1111", "8.8.8.8"]) == "2606:4700::1111"


# --- notations


@pytest.mark.parametrize(
    "host",
    [
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0x7f.1",
        "0X7F.1",
        "017700000001",
        "0177.0.0.1",
        "127.0.0.01",
        "0127.0.0.1",
        "127.0.0.0x1",
        "00000177.0.0.1",
        "127.0.0.1.5",
        "256.0.0.1",
        "4294967297",
        "1",
        "0",
        "0x",
        "a.0x1f",
        "example.1",
        "127.0.0.1..",
        "%31%32%37.0.0.1",
        "127.0.0.1%00.example.com",
        "localhost%2eexample",
        "[::1%25lo]",
        "[fe80::1%eth0]",
        "[::1",
        "::1]",
        "[127.0.0.1]",
        "[]",
        "[::1]x",
        "::1",
        "",
        ".",
        "..",
        ".example.com",
        "a..example.com",
        "-a.example.com",
        "a-.example.com",
        "a" * 64 + ".example",
        "a." * 130 + "example",
        "exa mple.com",
        "example.com,10.0.0.1",
        "example.com;x",
        "*.example.com",
        "example.com:",
        "example.com:http",
        "example.com:80:80",
        "example.com:+80",
        "ⓛocalhost",
        "\uff11\uff12\uff17.0.0.1",
        "127。0。0。1",
        "müller.example",
        "localhost\u200b",
    ],
)
def test_a_host_in_a_form_that_parsers_read_differently_is_refused(host: str) -> None:
    assert rule_of(f"http://{host}/hook") in {"host", "characters"}


@pytest.mark.parametrize(
    ("host", "read_as"),
    [
        ("127.0.0.1.", "127.0.0.1"),
        ("[::ffff:127.0.0.1]", "127.0.0.1"),
        ("[::ffff:7f00:1]", "127.0.0.1"),
        ("[0:0:0:0:0:0:0:1]", "::1"),
        ("[0000::0001]", "::1"),
        ("LOCALHOST", "localhost"),
        ("localhost.", "localhost"),
        ("LocalHost.", "localhost"),
    ],
)
def test_another_form_of_this_machine_is_read_as_what_it_is(host: str, read_as: str) -> None:
    url = f"http://{host}:3000/hook"
    assert rule_of(url) == "address"
    allow = parse_allow([f"[{read_as}]:3000" if ":" in read_as else f"{read_as}:3000"])
    assert check_url(url, allow).host == read_as


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "a.localhost",
        "a.b.localhost",
        "localhost.localdomain",
        "ip6-localhost",
        "ip6-loopback",
        "localhost6",
        "localhost6.localdomain6",
    ],
)
def test_a_name_of_this_machine_counts_as_loopback_before_it_is_resolved(host: str) -> None:
    assert rule_of(f"http://{host}:3000/") == "address"
    assert check_url(f"http://{host}:3000/", parse_allow(f"{host}:3000")).host == host
    assert rule_of(f"http://{host}:3001/", parse_allow(f"{host}:3000")) == "address"


@given(host=st.one_of(st.text(), st.from_regex(r"[0-9a-fxA-FX.:\[\]%]{1,24}", fullmatch=True)))
def test_whatever_stands_as_host_is_refused_or_read_as_a_name_or_a_public_address(host: str) -> None:
    try:
        target = check_url(f"http://{host}", NOTHING)
    except TargetRefused:
        return
    try:
        address = ip_address(target.host)
    except ValueError:
        assert not target.host.rpartition(".")[2].isdigit()
        assert target.host.isascii()
    else:
        assert kind_of(address) is None


# --- URLs


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://Example.COM", Target("https", "example.com", 443, "/")),
        ("HTTP://example.com./a", Target("http", "example.com", 80, "/a")),
        ("https://example.com:8443/a?b=c", Target("https", "example.com", 8443, "/a?b=c")),
        ("https://example.com?b=c", Target("https", "example.com", 443, "/?b=c")),
        ("https://example.com/a@b:c", Target("https", "example.com", 443, "/a@b:c")),
        ("https://example.com/?u=http://[::1]/", Target("https", "example.com", 443, "/?u=http://[::1]/")),
        ("https://xn--mller-kva.example/%C3%BC", Target("https", "xn--mller-kva.example", 443, "/%C3%BC")),
        ("http://my_hook.example/../a", Target("http", "my_hook.example", 80, "/../a")),
        ("https://[2606:4700:0::1111]:444/", Target("https", "2606:4700::1111", 444, "/")),
    ],
)
def test_a_url_is_taken_apart_as_it_will_be_sent(url: str, target: Target) -> None:
    assert check_url(url, NOTHING) == target


@pytest.mark.parametrize(
    ("target", "authority"),
    [
        (Target("https", "example.com", 443), "example.com"),
        (Target("http", "example.com", 80), "example.com"),
        (Target("http", "example.com", 443), "example.com:443"),
        (Target("https", "2606:4700::1111", 443), "[2606:4700::1111]"),
        (Target("http", "::1", 3000), "[::1]:3000"),
    ],
)
def test_the_host_header_leaves_out_the_usual_port_only(target: Target, authority: str) -> None:
    assert target.authority == authority


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("", "scheme"),
        ("example.com/hook", "scheme"),
        ("//example.com", "scheme"),
        ("ftp://example.com", "scheme"),
        ("file:///etc/passwd", "scheme"),
        ("gopher://example.com", "scheme"),
        ("javascript:alert(1)", "scheme"),
        ("http:example.com", "scheme"),
        ("http:/example.com", "scheme"),
        ("https:///example.com", "host"),
        ("https://", "host"),
        ("https://user@example.com", "userinfo"),
        ("https://user:secret@example.com", "userinfo"),
        ("https://example.com@127.0.0.1/", "userinfo"),
        ("https://@example.com/", "userinfo"),
        ("https://example.com#@127.0.0.1/", "fragment"),
        ("https://example.com/#", "fragment"),
        ("https://example.com\\@127.0.0.1/", "characters"),
        ("https://example.com/\\x", "characters"),
        ("https://example.com/ x", "characters"),
        (" https://example.com/", "characters"),
        ("https://example.com/\n", "characters"),
        ("https://exam\tple.com/", "characters"),
        ("https://example.com/\x00", "characters"),
        ("https://example.com/\r\nHost: x", "characters"),
        ("https://example.com/ü", "characters"),
        ("https://example.com:0/", "port"),
        ("https://example.com:65536/", "port"),
        ("https://example.com/" + "a" * 2048, "length"),
    ],
)
def test_a_url_that_breaks_a_rule_is_refused_by_its_name(url: str, rule: str) -> None:
    assert rule_of(url) == rule


def test_a_url_of_the_greatest_length_is_taken() -> None:
    url = "https://example.com/".ljust(2048, "a")
    assert check_url(url, NOTHING).host == "example.com"
    assert rule_of(url + "a") == "length"


@given(url=st.one_of(st.text(), st.text().map("https://{}".format)))
def test_no_text_makes_the_guard_raise_anything_but_a_refusal(url: str) -> None:
    with suppress(TargetRefused):
        assert check_url(url, NOTHING).host.isascii()


def test_a_refusal_and_a_target_do_not_show_the_path_with_its_secret() -> None:
    refused = refusal("http://127.0.0.1/s3cret-path?token=s3cret-query")
    assert "s3cret" not in str(refused)
    assert "s3cret" not in repr(refused.problems)
    assert "s3cret" not in repr(check_url("https://example.com/s3cret-path", NOTHING))


@pytest.mark.parametrize("port", [1, 22, 25, 53, 445, 587, 2375, 3306, 5432, 6379, 9200, 11211, 27017])
def test_a_port_of_another_service_is_refused_unless_it_is_named(port: int) -> None:
    url = f"https://example.com:{port}/"
    assert rule_of(url) == "port"
    assert check_url(url, parse_allow(f"example.com:{port}")).port == port
    assert rule_of(f"http://10.0.0.1:{port}/", parse_allow("10.0.0.0/8")) == "port"


def test_of_all_ports_only_those_of_other_services_are_refused() -> None:
    refused = set()
    for port in range(1, 65_536):
        try:
            check_url(f"https://example.com:{port}/", NOTHING)
        except TargetRefused:
            refused.add(port)
    assert refused == REFUSED_PORTS


@pytest.mark.parametrize("port", [80, 443, 3000, 8000, 8080, 8443, 9000, 65535])
def test_a_port_of_the_web_is_called(port: int) -> None:
    assert check_url(f"https://example.com:{port}/", NOTHING).port == port


# --- what is allowed


def test_a_private_range_is_called_only_when_it_is_allowed() -> None:
    allow = parse_allow("10.1.0.0/16, 192.168.1.7,fd12::/64,")
    for address in ("10.1.2.3", "192.168.1.7", "fd12::5", "::ffff:10.1.2.3"):
        assert resolved([address], allow) == address
        check_url(url_of(address), allow)
        with pytest.raises(TargetRefused, match="RELAY_ALLOW_TARGETS"):
            resolved([address])
    for address in ("10.2.0.1", "192.168.1.8", "fd13::5", "127.0.0.1", "169.254.1.1", "::1", "64:ff9b::10.1.2.3"):
        with pytest.raises(TargetRefused):
            resolved([address], allow)


def test_loopback_is_called_only_under_an_exact_host_and_port() -> None:
    allow = parse_allow("127.0.0.1:3000,[::1]:3001")
    assert check_url("http://127.0.0.1:3000/", allow).port == 3000
    assert check_url("http://[::1]:3001/", allow).port == 3001
    for url in ("http://127.0.0.1:3001/", "http://127.0.0.1/", "http://[::1]:3000/", "http://127.0.0.2:3000/"):
        assert "RELAY_ALLOW_TARGETS" in str(refusal(url, allow))


def test_a_name_may_be_allowed_with_its_port_wherever_it_leads() -> None:
    allow = parse_allow("Host.Docker.Internal:3000")
    host = "host.docker.internal"
    assert resolved(["192.168.65.2"], allow, host, 3000) == "192.168.65.2"
    assert resolved(["127.0.0.1"], allow, host, 3000) == "127.0.0.1"
    for other, port in ((host, 3001), ("other.example", 3000)):
        with pytest.raises(TargetRefused):
            resolved(["127.0.0.1"], allow, other, port)
    for never in ("0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1", "2002:7f00:1::"):  # noqa: S104
        with pytest.raises(TargetRefused):
            resolved([never], allow, host, 3000)


def test_an_allowed_address_and_port_is_also_called_by_name() -> None:
    allow = parse_allow("127.0.0.1:3000")
    assert resolved(["127.0.0.1"], allow, "hook.example", 3000) == "127.0.0.1"
    with pytest.raises(TargetRefused):
        resolved(["127.0.0.1"], allow, "hook.example", 3001)


@pytest.mark.parametrize(
    "item",
    [
        "127.0.0.0/8",
        "127.0.0.1",
        "::1",
        "::1/128",
        "169.254.0.0/16",
        "fe80::/10",
        "0.0.0.0/0",
        "::/0",
        "8.8.8.0/24",
        "10.0.0.0/7",
        "10.1.2.3/8",
        "10.0.0.0/33",
        "fc00::/6",
        "198.18.0.0/15",
        "localhost",
        "example.com",
        "*:80",
        "*.example.com:80",
        "example.com:0",
        "example.com:65536",
        "example.com:http",
        "0.0.0.0:80",
        "[::]:80",
        "224.0.0.1:80",
        "127.1:80",
        "http://localhost:3000",
        "localhost:3000/hook",
        "::1:3000",
        "ⓛocalhost:3000",
        "all",
    ],
)
def test_an_item_that_allows_too_much_or_nothing_is_refused_by_name(item: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_allow(item)
    problem = caught.value.problems[0]
    assert (problem.field, problem.given) == ("RELAY_ALLOW_TARGETS", item)
    assert repr(item) in problem.message


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("127.0.0.0/8", "only as an exact host:port"),
        ("169.254.0.0/16", "only as an exact host:port"),
        ("8.8.8.0/24", "public addresses need no entry"),
        ("224.0.0.1:80", "is a multicast address, which cannot be allowed"),
        ("[::1:80", "neither a range"),
        ("[::1%lo]:80", "is not an IPv6 address"),
    ],
)
def test_a_refused_item_is_told_why(item: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        parse_allow(item)


def test_an_allowed_host_is_kept_in_its_one_form() -> None:
    allow = parse_allow("[::ffff:127.0.0.1]:3000, [0:0::1]:65535, EXAMPLE.com.:1")
    assert allow.hosts == {("127.0.0.1", 3000), ("::1", 65535), ("example.com", 1)}


def test_all_wrong_items_are_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_allow(["10.0.0.0/8", "all", "127.0.0.1"])
    assert [problem.given for problem in caught.value.problems] == ["all", "127.0.0.1"]


def test_nothing_is_allowed_by_an_empty_setting_and_too_much_by_an_endless_one() -> None:
    assert parse_allow("") == parse_allow([]) == parse_allow(" , ") == NOTHING
    assert len(parse_allow(["10.0.0.1"] * 256).networks) == 256
    with pytest.raises(ConfigurationError, match="at most"):
        parse_allow(["10.0.0.1"] * 257)


@given(text=st.text())
def test_no_setting_makes_the_parser_raise_anything_but_a_configuration_error(text: str) -> None:
    with suppress(ConfigurationError):
        parse_allow(text)


# --- the relay itself

EVERYTHING = ["localhost:8000", "127.0.0.1:8000", "127.9.9.9:8000", "[::1]:8000", "10.1.2.3:8000", "hook.test:8000"]


def own(host: str, public_url: str | None = None) -> Allow:
    """All that could be allowed is, but for the relay that listens on this host's port 8000."""
    return replace(parse_allow([*EVERYTHING, "10.0.0.0/8"]), own=own_doors(host, 8000, public_url))


@pytest.mark.parametrize("listens_on", ["127.0.0.1", "localhost", "0.0.0.0", "::", "::1", ""])  # noqa: S104
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "[::1]", "[::ffff:127.0.0.1]", "LOCALHOST."])
def test_the_relay_itself_is_refused_by_every_name_of_this_machine_even_when_it_is_allowed(
    listens_on: str, host: str
) -> None:
    refused = refusal(f"http://{host}:8000/callbacks/x", own(listens_on))
    assert refused.problems[0].rule == "self"
    assert str(refused) == "url leads back to this relay itself"


def test_the_relay_itself_is_refused_by_its_own_address_and_others_are_not() -> None:
    assert rule_of("http://10.1.2.3:8000/", own("10.1.2.3")) == "self"
    assert check_url("http://10.1.2.4:8000/", own("10.1.2.3")).port == 8000
    assert check_url("http://10.1.2.3:8001/", own("10.1.2.3")).port == 8001
    assert check_url("http://localhost:8000/", own("10.1.2.3")).port == 8000


@pytest.mark.parametrize(
    ("public_url", "url"),
    [
        ("https://relay.example", "https://RELAY.example./v1/jobs"),
        ("https://relay.example/base", "https://relay.example:443/base/v1/jobs"),
        ("http://Relay.example:8080", "http://relay.example:8080/"),
        ("https://[2606:4700::1]", "https://[2606:4700:0::1]/"),
    ],
)
def test_the_relay_itself_is_refused_by_its_public_address(public_url: str, url: str) -> None:
    assert rule_of(url, own("0.0.0.0", public_url)) == "self"  # noqa: S104
    assert check_url("https://other.example/", own("0.0.0.0", public_url)).port == 443  # noqa: S104


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["93.184.216.34", "::1"], ["::ffff:127.0.0.1"]])
def test_a_name_that_leads_back_to_the_relay_is_refused_when_it_is_called(addresses: list[str]) -> None:
    with pytest.raises(TargetRefused, match=r"the name hook.test leads back to this relay itself"):
        check_addresses(Target("http", "hook.test", 8000), addresses, own("127.0.0.1"))
    assert check_addresses(Target("http", "hook.test", 8000), addresses, parse_allow("hook.test:8000"))


@pytest.mark.parametrize(
    "marks", [["0badcafe"], ["1, 0badcafe"], ["1", "0badcafe,2"], ["1"] * (MAX_HOPS + 1), [",".join("123456789")]]
)
def test_a_request_that_came_through_this_relay_or_through_too_many_is_refused(marks: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_hops(marks, "0badcafe")
    assert (caught.value.problems[0].field, caught.value.problems[0].rule) == (HOP_HEADER, "loop")


@pytest.mark.parametrize("marks", [[], ["1"], ["0badcaf"], ["1"] * MAX_HOPS])
def test_a_request_from_elsewhere_is_let_in(marks: list[str]) -> None:
    check_hops(marks, "0badcafe")
