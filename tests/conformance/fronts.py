"""nginx and Caddy in front of a relay, run by their own programs with the configurations of `deploy/`."""

import asyncio
import os
import pwd
import shutil
import signal
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.journeys import WAIT_S
from tests.whole.processes import ROOT, free_port

DEPLOY: Final = ROOT / "deploy"
FRONTS: Final = ("nginx", "caddy", "nginx with TLS", "caddy with TLS")


@dataclass
class Front:
    """A running proxy; `lines` is what it has said on stderr, `folder` where its logs are."""

    url: str
    folder: Path
    trusted: ssl.SSLContext | bool
    lines: list[str] = field(default_factory=list)

    def logged(self) -> str:
        """Everything that it has written anywhere."""
        return "".join([*self.lines, *(log.read_text("utf-8", "replace") for log in self.folder.glob("*.log"))])


@dataclass(frozen=True)
class Certificate:
    """For 127.0.0.1, signed by itself."""

    folder: Path

    @property
    def chain(self) -> Path:
        return self.folder / "fullchain.pem"

    @property
    def key(self) -> Path:
        return self.folder / "privkey.pem"

    @property
    def trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.chain))


def certificate(folder: Path) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "relay")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    found = Certificate(folder)
    found.chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8
    found.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption()))
    return found


def program(name: str) -> str:
    """Where a program is; the test is skipped where it is not."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed here")
    return found


def changed(text: str, changes: dict[str, str]) -> str:
    """A configuration with the lines changed that an operator changes; each must be there."""
    for old, new in changes.items():
        assert old in text, f"the configuration has no {old!r} any more"
        text = text.replace(old, new)
    return text


def nginx_configuration(folder: Path, backend: str, port: int, cert: Certificate | None) -> str:
    """`deploy/nginx.conf` as a whole configuration, its names, ports and paths those of a test."""
    site = (DEPLOY / "nginx.conf").read_text("utf-8")
    redirect = site[site.index("server {\n    listen 80;") : site.index("server {\n    listen 443")]
    tls = cert is not None
    site = changed(
        site,
        {
            redirect: "",
            "server 127.0.0.1:8080;": f"server {backend};",
            "listen 443 ssl http2;": f"listen 127.0.0.1:{port}{' ssl http2' if tls else ''};",
            "/var/log/nginx/relay": f"{folder}/relay",
            "ssl_certificate /etc/ssl/relay/fullchain.pem;": f"ssl_certificate {cert.chain};" if cert else "",
            "ssl_certificate_key /etc/ssl/relay/privkey.pem;": f"ssl_certificate_key {cert.key};" if cert else "",
        },
    )
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = pwd.getpwuid(os.getuid()).pw_name
    return (
        f"{f'user {user};' if os.getuid() == 0 else ''}\ndaemon off;\npid {folder}/nginx.pid;\n"
        f"error_log stderr notice;\nworker_processes 1;\nevents {{ worker_connections 1024; }}\n"
        # The log that Debian's own nginx.conf sets up; the site must not leave it to that.
        f"http {{\naccess_log {folder}/default.log;\nerror_log {folder}/default-error.log info;\n{paths}{site}}}\n"
    )


def caddy_configuration(cert: Certificate | None) -> str:
    """`deploy/Caddyfile`; with TLS by a certificate of the test's, as no name of its own can be had here."""
    site = (DEPLOY / "Caddyfile").read_text("utf-8")
    if cert is None:
        return site
    admin = "admin {$CADDY_ADMIN:localhost:2019}"
    own = {admin: f"{admin}\n\tauto_https disable_redirects", "\tlog\n": f"\tlog\n\ttls {cert.chain} {cert.key}\n"}
    return changed(site, own)


def command(
    name: str, folder: Path, backend_url: str, port: int, spoil: Callable[[str], str] = lambda text: text
) -> tuple[list[str], dict[str, str], Certificate | None]:
    """How to start a front: its arguments, its environment, its certificate. `spoil` changes its configuration."""
    kind, _, with_tls = name.partition(" with ")
    folder.mkdir(exist_ok=True)
    found, backend = program(kind), urlsplit(backend_url).netloc
    cert = certificate(folder) if with_tls else None
    at = folder / "configuration"
    if kind == "nginx":
        at.write_text(spoil(nginx_configuration(folder, backend, port, cert)), "utf-8")
        return [found, "-e", "stderr", "-p", str(folder), "-c", str(at)], dict(os.environ), cert
    at.write_text(spoil(caddy_configuration(cert)), "utf-8")
    env = {
        **os.environ,
        "CADDY_SITE": f"{'https' if cert else 'http'}://127.0.0.1:{port}",
        "CADDY_BACKEND": backend,
        "CADDY_ADMIN": "off",
        "HOME": str(folder),
        "XDG_DATA_HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
    }
    return [found, "run", "--config", str(at), "--adapter", "caddyfile"], env, cert


@asynccontextmanager
async def front(
    name: str, folder: Path, backend_url: str, spoil: Callable[[str], str] = lambda text: text
) -> AsyncGenerator[Front]:
    """The proxy of that name before the relay at `backend_url`, once it takes connections; ended at the end."""
    port = free_port()
    arguments, env, cert = command(name, folder, backend_url, port, spoil)
    process = await asyncio.create_subprocess_exec(
        *arguments, cwd=folder, env=env, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    scheme = "https" if cert else "http"
    running = Front(f"{scheme}://127.0.0.1:{port}", folder, cert.trusted if cert else True)
    assert process.stderr is not None
    up = asyncio.Event()

    async def listen(said: asyncio.StreamReader) -> None:
        async for line in said:
            running.lines.append(line.decode("utf-8", "replace"))
            if "start worker process " in running.lines[-1] or "serving initial configuration" in running.lines[-1]:
                up.set()
        up.set()  # whoever waits sees below that it has ended

    listening = asyncio.create_task(listen(process.stderr))
    try:
        async with asyncio.timeout(WAIT_S):
            await up.wait()
        assert process.returncode is None, running.logged()
        assert not listening.done(), running.logged()
        yield running
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM if name.startswith("nginx") else signal.SIGKILL)
        async with asyncio.timeout(WAIT_S):
            await process.wait()
            await listening
