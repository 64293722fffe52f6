"""Verifiers, certificates and both ends of a login, for the tests of the wire protocol."""

from __future__ import annotations

import base64
import hashlib
import hmac

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from certificates import self_signed
from metako.pgwire.keys import ClientKey, Md5Hash, ScramKeys
from metako.pgwire.login_client import ConnectStep, LoginClient
from metako.pgwire.login_server import LoginInputs, LoginServer, LoginStep
from metako.pgwire.messages import BackendKey, TransactionStatus, backend_key_data, ready_for_query

NONCE = bytes(range(18))
OTHER_NONCE = bytes(range(100, 118))
SALT = b"sodium chloride!"
MOCK_SECRET = b"a secret of the cluster"
BINDING = b"digest of a certificate"
INPUTS = LoginInputs(NONCE, b"salt")
SETTINGS = backend_key_data(BackendKey(4711, b"key!")) + ready_for_query(TransactionStatus.IDLE)


def scram_keys(password: str, salt: bytes = SALT, iterations: int = 4) -> ScramKeys:
    """Return what PostgreSQL derives from a password; for plain ASCII, which SASLprep leaves."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    return ScramKeys(
        ClientKey(hmac.digest(salted, b"Client Key", "sha256")),
        hmac.digest(salted, b"Server Key", "sha256"),
    )


def stored_scram(password: str, salt: bytes = SALT, iterations: int = 4) -> str:
    """Return the `rolpassword` of a password."""
    keys = scram_keys(password, salt, iterations)
    parts = (salt, keys.client_key.stored_key(), keys.server_key)
    encoded_salt, stored, server = (base64.b64encode(part).decode() for part in parts)
    return f"SCRAM-SHA-256${iterations}:{encoded_salt}${stored}:{server}"


def stored_md5(password: str, user: str) -> Md5Hash:
    found = Md5Hash.parse("md5" + hashlib.md5((password + user).encode()).hexdigest())
    assert found is not None
    return found


def certificate(algorithm) -> bytes:
    """Return a certificate that is signed with this digest; None: by Ed25519, which has none."""
    if algorithm is None:
        return _der(ed25519.Ed25519PrivateKey.generate(), None)
    return _der(ec.generate_private_key(ec.SECP256R1()), algorithm)


def old_certificate(digest: str) -> bytes:
    """Return a certificate that says it is signed with MD5 or SHA-1, which nobody signs with."""
    der = _der(rsa.generate_private_key(65537, 1024), hashes.SHA256())
    rsa_with = bytes.fromhex("06092a864886f70d0101")  # the digest is the last byte of the name
    number = {"md5": 4, "sha1": 5}[digest].to_bytes(1, "big")
    assert der.count(rsa_with + b"\x0b") == 2
    return der.replace(rsa_with + b"\x0b", rsa_with + number)


def _der(key, algorithm) -> bytes:
    return self_signed(key, algorithm).public_bytes(Encoding.DER)


def converse(
    server: LoginServer, client: LoginClient, *, piece_bytes: int = 1 << 16
) -> tuple[LoginStep, ConnectStep]:
    """Let a client of ours log in to a server of ours; return both last steps."""
    client.start()  # what follows the packet is all that a login sees
    ours, theirs = server.start(), ConnectStep(b"")
    while True:
        to_client = ours.send
        if ours.outcome is not None:
            to_client += getattr(ours.outcome, "error", SETTINGS)
        theirs = feed(client, to_client, piece_bytes)
        if ours.outcome is not None or theirs.outcome is not None:
            return ours, theirs
        ours = feed(server, theirs.send, piece_bytes)


def feed(side, data: bytes, piece_bytes: int):
    """Give `data` to one side in pieces; return one step as if it had come at once."""
    send, outcome, step = b"", None, None
    for begin in range(0, len(data), piece_bytes):
        step = side.receive_untrusted(data[begin : begin + piece_bytes])
        send, outcome = send + step.send, step.outcome
    assert step is not None, "one side waits for the other, which has nothing to say"
    return type(step)(send, outcome)
