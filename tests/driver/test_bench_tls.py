"""The proxy benchmark's own client with TLS; its real logins are in the integration tests."""

from functools import partial

import pytest
import trio

from benchmarks.proxy.tls import TlsClient
from metako.demo.client import ClientError
from metako.pgwire.startup import ssl_request_packet

TIMEOUT_S = 10.0


async def test_client_that_is_refused_tls_says_nothing_in_clear(nursery):
    heard = bytearray()
    gone = trio.Event()

    async def refuse(stream: trio.SocketStream) -> None:
        heard.extend(await stream.receive_some(1000))
        await stream.send_all(b"N")
        heard.extend(await stream.receive_some(1000))
        gone.set()

    listeners = await nursery.start(partial(trio.serve_tcp, refuse, 0, host="127.0.0.1"))
    port = listeners[0].socket.getsockname()[1]
    with pytest.raises(ClientError, match="TLS is not to be had"):
        await TlsClient.connect(
            "127.0.0.1", port, user="anna", password="secret", database="shop", timeout_s=TIMEOUT_S
        )
    with trio.fail_after(TIMEOUT_S):
        await gone.wait()
    assert bytes(heard) == ssl_request_packet()
