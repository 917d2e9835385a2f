"""The sender against servers that others wrote: nginx with TLS, node's http, aiohttp."""

import asyncio
import datetime as dt
import os
import shutil
import socket
import ssl
import subprocess
from ipaddress import ip_address, ip_network

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from needs import need

from daemon.errors import CertificateRefused, NotSent
from daemon.outbound.addresses import AddressPolicy
from daemon.outbound.sender import Limits, Sender

NAME = "callback.example"


async def everywhere(host, port):
    """Every name is this machine."""
    return ["127.0.0.1"]


def sender(trusted=None, **limits):
    return Sender(
        policy=AddressPolicy(allow=[ip_network("127.0.0.0/8")], lookup=everywhere),
        ssl_context=ssl.create_default_context(cafile=trusted),
        limits=Limits(**limits),
    )


async def many(client, url, *, requests=200, lanes=8):
    """POST *requests* bodies of growing length in *lanes* lanes; the bodies that came back, in order."""

    async def lane(which):
        answers = []
        for n in range(which, requests, lanes):
            answer = await client.post(url, headers={"Content-Type": "text/plain"}, body=body(n))
            answers.append((n, answer))
        return answers

    lists = await asyncio.gather(*(lane(which) for which in range(lanes)))
    return [
        answer for _, answer in sorted((n, answer) for answers in lists for n, answer in answers)
    ]


def body(n):
    return b"%d:" % n + b"x" * (n * 13)


# aiohttp


def test_aiohttp(run):
    """aiohttp's server takes every body and answers with it, whole and chunked, over kept connections."""

    async def main():
        async def echo(request):
            data = await request.read()
            if request.path == "/whole":
                return web.Response(
                    body=data,
                    headers={"X-Peer": str(request.transport.get_extra_info("peername")[1])},
                )
            answer = web.StreamResponse(
                headers={"X-Peer": str(request.transport.get_extra_info("peername")[1])}
            )
            answer.enable_chunked_encoding()
            await answer.prepare(request)
            await answer.write(data[: len(data) // 2])
            await answer.write(data[len(data) // 2 :])
            return answer

        application = web.Application()
        application.router.add_post("/{path}", echo)
        runner = web.AppRunner(application)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            port = runner.addresses[0][1]
            async with sender(per_origin=8) as client:
                for path in ("whole", "chunked"):
                    answers = await many(client, f"http://{NAME}:{port}/{path}")
                    assert [body(n) for n in range(200)] == [answer.body for answer in answers]
                    assert len({answer.headers["x-peer"] for answer in answers}) <= 8
        finally:
            await runner.cleanup()

    run(main())


# node

NODE = """
const server = require("http").createServer((request, response) => {
  if (request.url === "/early") { response.writeHead(401); response.end("no"); return; }
  if (request.url === "/hints") { response.writeEarlyHints({ link: "</x>; rel=preload" }); }
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    if (request.url === "/destroy") { request.socket.destroy(); return; }
    response.setHeader("X-Peer", request.socket.remotePort);
    response.end(Buffer.concat(parts));
  });
});
server.keepAliveTimeout = 60000;
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.on("end", () => process.exit()).resume();
"""


@pytest.fixture(scope="module")
def node():
    """The port of a node server that echoes."""
    need(shutil.which("node"), "node")
    with subprocess.Popen(
        ["node", "-e", NODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield int(process.stdout.readline())
        process.stdin.close()


def test_node(run, node):
    """node's http takes every body and answers with it over kept connections, early hints or not."""

    async def main():
        async with sender(per_origin=8) as client:
            for path in ("", "hints"):
                answers = await many(client, f"http://{NAME}:{node}/{path}")
                assert [body(n) for n in range(200)] == [answer.body for answer in answers]
                assert len({answer.headers["x-peer"] for answer in answers}) <= 8
            assert 8 >= client.connections

    run(main())


def test_node_answers_early(run, node):
    """An answer that node gives before it has read a long body is received."""

    async def main():
        async with sender() as client:
            url = f"http://{NAME}:{node}/early"
            assert 401 == (await client.post(url, body=b"x" * 5_000_000)).status
            assert 200 == (await client.post(f"http://{NAME}:{node}/", body=b"1")).status

    run(main())


# nginx

CONFIG = """
daemon off; {user} pid {folder}/pid; error_log stderr crit; worker_processes 1;
events {{ worker_connections 256; }}
http {{
  access_log off; keepalive_requests 50; client_body_temp_path {folder}/1; proxy_temp_path {folder}/2;
  fastcgi_temp_path {folder}/3; uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  ssl_certificate {folder}/good.pem; ssl_certificate_key {folder}/good.key;
  client_max_body_size 100k;
  server {{ listen 127.0.0.1:{tls} ssl;
    add_header X-Said "$ssl_server_name $ssl_protocol $host $connection $connection_requests" always;
    location / {{ return 200 "ok"; }} location /read {{ proxy_pass http://127.0.0.1:{plain}/; }} location /moved {{ return 307 /; }} location /gone {{ return 410; }}
    location /drop {{ return 444; }} }}
  server {{ listen 127.0.0.1:{plain}; location / {{ return 200 "plain"; }} }}
  server {{ listen 127.0.0.1:{old} ssl; ssl_protocols TLSv1.1; ssl_ciphers ALL:@SECLEVEL=0;
    location / {{ return 200; }} }}
  server {{ listen 127.0.0.1:{other} ssl; ssl_certificate {folder}/other.pem;
    ssl_certificate_key {folder}/other.key; location / {{ return 200; }} }}
  server {{ listen 127.0.0.1:{expired} ssl; ssl_certificate {folder}/expired.pem;
    ssl_certificate_key {folder}/expired.key; location / {{ return 200; }} }}
}}
"""


class Nginx:
    """A running nginx: its ports by name, and the file of the authority that signed its certificates."""

    def __init__(self, ports, authority):
        self.authority = authority
        self.ports = ports

    def url(self, which, path="/"):
        scheme = "http" if which == "plain" else "https"
        return f"{scheme}://{NAME}:{self.ports[which]}{path}"


@pytest.fixture(scope="module")
def nginx(tmp_path_factory):
    """nginx with TLS under certificates made now, of an authority made now."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin:/usr/local/sbin")
    need(program, "nginx")
    folder = tmp_path_factory.mktemp("nginx")
    certificates(folder)
    names = ("tls", "plain", "old", "other", "expired")
    held = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = {name: sock.getsockname()[1] for name, sock in zip(names, held, strict=True)}
    for sock in held:
        sock.close()
    config = folder / "nginx.conf"
    config.write_text(
        CONFIG.format(folder=folder, user="user root;" if os.geteuid() == 0 else "", **ports)
    )
    with subprocess.Popen(
        [program, "-p", str(folder), "-c", str(config), "-e", "stderr"]
    ) as process:
        try:
            asyncio.run(listening(ports["tls"], process))
            yield Nginx(ports, folder / "authority.pem")
        finally:
            process.terminate()


async def listening(port, process):
    """Wait until *port* is listened to."""
    async with asyncio.timeout(10):
        while process.poll() is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                await writer.wait_closed()
                return
    pytest.fail("nginx ended")


def certificates(folder):
    """An authority, and certificates: a good one, one of another name, one that is expired."""
    now = dt.datetime.now(dt.UTC)
    day = dt.timedelta(days=1)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])

    def certificate(name, key, *, alternative=None, until=now + day):
        subject = (
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) if alternative else authority
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * day)
            .not_valid_after(until)
            .add_extension(
                x509.BasicConstraints(ca=not alternative, path_length=None), critical=True
            )
        )
        if alternative:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(alternative), critical=False
            )
        return builder.sign(authority_key, hashes.SHA256())

    def write(name, key, *certificates):
        pem = serialization.Encoding.PEM
        (folder / f"{name}.pem").write_bytes(
            b"".join(one.public_bytes(pem) for one in certificates)
        )
        (folder / f"{name}.key").write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )

    write("authority", authority_key, certificate("authority", authority_key))
    names = {
        "good": ([x509.DNSName(NAME), x509.IPAddress(ip_address("127.0.0.1"))], now + day),
        "other": ([x509.DNSName("other.example")], now + day),
        "expired": ([x509.DNSName(NAME)], now - day),
    }
    for name, (alternative, until) in names.items():
        key = ec.generate_private_key(ec.SECP256R1())
        write(name, key, certificate(name, key, alternative=alternative, until=until))


def test_nginx_over_tls(run, nginx):
    """Requests reach nginx over TLS 1.2 or 1.3 with SNI, on connections that are kept until nginx ends them."""

    async def main():
        async with sender(nginx.authority, per_origin=4) as client:
            answers = await many(client, nginx.url("tls", "/read"), requests=150)
            assert {(200, b"plain")} == {(answer.status, answer.body) for answer in answers}
            said = [answer.headers["x-said"].split() for answer in answers]
            assert {NAME} == {name for name, *_ in said}
            assert {protocol for _, protocol, *_ in said} <= {"TLSv1.2", "TLSv1.3"}
            # keepalive_requests is 50: nginx says `Connection: close` on every fiftieth.
            assert 3 <= len({connection for *_, connection, _ in said}) <= 8
            by_address = await client.post(f"https://127.0.0.1:{nginx.ports['tls']}/", body=b"")
            assert 200 == by_address.status

    run(main())


def test_nginx_statuses(run, nginx):
    """Any status is an answer, a redirect is not followed, 413 may come before the body was sent."""

    async def main():
        async with sender(nginx.authority) as client:
            for path, size, status in (
                ("/moved", 1, 307),
                ("/gone", 1, 410),
                ("/", 3_000_000, 413),
            ):
                answer = await client.post(nginx.url("tls", path), body=b"x" * size)
                assert status == answer.status

    run(main())


@pytest.mark.parametrize(
    ("which", "error", "reason"),
    [
        ("other", CertificateRefused, "not valid for 'callback.example'"),
        ("expired", CertificateRefused, "expired"),
        ("old", NotSent, "TLS"),
    ],
)
def test_bad_tls_is_not_sent(run, nginx, which, error, reason):
    """A certificate of another name, an expired one, and TLS 1.1: nothing is sent, and it says why."""

    async def main():
        async with sender(nginx.authority) as client:
            with pytest.raises(error, match=reason):
                await client.post(nginx.url(which), body=b"1")
            assert 0 == client.connections

    run(main())


def test_an_unknown_authority_is_refused(run, nginx):
    """Trusting what the system trusts, a certificate of a stranger's authority is refused."""

    async def main():
        async with sender() as client:
            with pytest.raises(CertificateRefused, match="unable to get local issuer"):
                await client.post(nginx.url("tls"), body=b"1")

    run(main())


def test_http_spoken_to_a_tls_port_and_tls_to_an_http_port(run, nginx):
    """The wrong scheme is an answer of nginx in one direction and not sent in the other."""

    async def main():
        async with sender(nginx.authority) as client:
            plain = nginx.url("tls").replace("https:", "http:")
            assert 400 == (await client.post(plain, body=b"1")).status
            with pytest.raises(NotSent, match="TLS"):
                await client.post(nginx.url("plain").replace("http:", "https:"), body=b"1")

    run(main())


def test_a_handshake_that_hangs_is_bounded(run):
    """A server that accepts and says nothing does not hold a TLS handshake for longer than the limit."""

    async def main():
        with socket.create_server(("127.0.0.1", 0)) as silent:
            async with sender(connect=0.05) as client:
                with pytest.raises(NotSent, match="no connection within"):
                    await client.post(f"https://{NAME}:{silent.getsockname()[1]}/", body=b"1")
                assert 0 == client.connections

    run(main())


def test_a_context_that_does_not_verify_is_refused():
    """Nobody can hand in a TLS context that skips a check or speaks old TLS."""
    lax = ssl.create_default_context()
    lax.check_hostname = False
    policy = AddressPolicy()

    with pytest.raises(ValueError, match="verify"):
        Sender(policy=policy, ssl_context=lax)
    lax.verify_mode = ssl.CERT_NONE
    with pytest.raises(ValueError, match="verify"):
        Sender(policy=policy, ssl_context=lax)
    old = ssl.create_default_context()
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.raises(ValueError, match=r"1\.2"):
        Sender(policy=policy, ssl_context=old)
