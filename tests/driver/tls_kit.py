"""Servers and clients with TLS, for the tests of a proxy between them."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import trio
from legs_kit import LegServer, conclude
from proxy_kit import DEADLINE_S, Client, Proxy

from certificates import Authority
from metako.model.sslmode import SslMode
from metako.pgwire import startup as pg
from metako.pgwire.binding import channel_binding_data
from metako.pgwire.keys import ScramKeys
from metako.pgwire.login_client import LoginClient, ServerReady, ServerRefused
from metako.proxy.tlsoptions import TlsOptions

ANNA = {"user": "anna", "database": "shop"}


@dataclass(frozen=True)
class Papers:
    """Certificates; the key of each lies beside it."""

    authority: Authority
    stranger: Authority
    proxy: Path
    server: Path

    def offered(self, **changes: object) -> TlsOptions:
        """Return the options of a proxy that shows its certificate."""
        return TlsOptions(cert_file=self.proxy, key_file=key_of(self.proxy), **changes)

    def towards(self, mode: SslMode, **changes: object) -> TlsOptions:
        """Return the options of a proxy that has no certificate."""
        ca_file = self.authority.path if mode.verifies else None
        return TlsOptions(server_mode=mode, **{"server_ca_file": ca_file, **changes})


def key_of(certificate: Path) -> Path:
    return certificate.with_suffix(".key")


def papers_in(directory: Path) -> Papers:
    authority, stranger = Authority(directory), Authority(directory, "stranger")
    return Papers(authority, stranger, authority.sign("proxy"), authority.sign("server"))


def binding_of(certificate: Path) -> bytes:
    found = channel_binding_data(ssl.PEM_cert_to_DER_cert(certificate.read_text()))
    assert found is not None
    return found


def as_client(papers: Papers, own: Path | None = None, *, alpn: bool = True) -> ssl.SSLContext:
    """Return what verifies the proxy's certificate, and shows `own`."""
    context = ssl.create_default_context(cafile=str(papers.authority.path))
    if own is not None:
        context.load_cert_chain(own, key_of(own))
    if alpn:
        context.set_alpn_protocols([pg.ALPN_PROTOCOL])
    return context


async def encrypt(client: Client, context: ssl.SSLContext, *, direct: bool = False) -> Client:
    """Return the client on TLS, which it asks for unless it begins with it."""
    with trio.fail_after(DEADLINE_S):
        if not direct:
            await client.stream.send_all(pg.ssl_request_packet())
            assert await client.stream.receive_some(1) == b"S"
        stream = trio.SSLStream(client.stream, context, server_hostname="127.0.0.1")
        await stream.do_handshake()
    return Client(stream)


async def on_tls(proxy: Proxy, context: ssl.SSLContext, *, direct: bool = False) -> Client:
    return await encrypt(await proxy.connect(), context, direct=direct)


async def bound_login(
    client: Client, keys: ScramKeys, binding: bytes
) -> ServerReady | ServerRefused:
    """Log in by SCRAM, bound to the certificate that this is of if that is offered."""
    login = LoginClient(ANNA, keys, nonce=b"c" * 18, binding=binding)
    return await conclude(client, login)


@dataclass
class TlsServer(LegServer):
    """Answers a request for TLS, with a handshake if the answer is yes.

    Its tickets arrive behind the handshake, as those of servers other than PostgreSQL may.
    """

    certificate: Path | None = None  # None: it has to be asked with another answer than yes
    answer: bytes = pg.ENCRYPTION_ACCEPTED  # garbage may be behind it
    stalls: bool = False  # in the middle of the handshake
    asked: int = 0  # for TLS
    encrypted: int = 0  # connections

    async def _talk(self, stream: trio.SocketStream) -> None:
        if await stream.socket.recv(8, trio.socket.MSG_PEEK) == pg.ssl_request_packet():
            await stream.receive_some(8)
            self.asked += 1
            await stream.send_all(self.answer)
            if self.stalls:
                while await stream.receive_some():
                    pass
                return
            if self.answer == pg.ENCRYPTION_ACCEPTED:
                assert self.certificate is not None
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(self.certificate, key_of(self.certificate))
                stream = trio.SSLStream(stream, context, server_side=True)  # type: ignore[assignment]
                self.encrypted += 1
        await super()._talk(stream)
