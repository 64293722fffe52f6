"""SCRAM-SHA-256 without a password: both sides of it, from keys alone.

A server that knows a role's verifier learns the role's ClientKey from the proof of a client that
logs in. With that key and the verifier's ServerKey the same role logs in elsewhere, wherever the
same verifier is stored: at every physical copy of the cluster. So a proxy that stands between ends
one login and makes another, and nobody tells it a password.

    the client                      ScramServer         ScramClient          the server
    ------------------------------- first_untrusted     first --------------------------
    ------------------------------- final_untrusted ->  final_untrusted ----------------
                                    ClientKey           verify_untrusted ---------------

Channel binding ties a login to the certificate of one TLS connection, so it is ended and made anew
as well: each side takes the binding data of its own connection. Where there are such data,
SCRAM-SHA-256-PLUS is offered, and a client that could bind but believes that we cannot is refused:
somebody between us has cut the offer out.

No password and no user name is looked at, so SASLprep matters on neither side. Nothing random is
drawn here: nonces come from the caller and must never be used twice.

Source: RFC 5802, RFC 5929 (tls-server-end-point), RFC 7677; where PostgreSQL differs, its way, and
its words: src/backend/libpq/auth-scram.c. PostgreSQL ignores the user name in a client's message
and accepts no authorization identity.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from metako.pgwire.keys import KEY_BYTES, ClientKey, ScramKeys
from metako.pgwire.startup import PgWireError, SqlState
from metako.pgwire.verifier import ScramVerifier, decode_base64, hmac_sha256, parse_count

MECHANISM = "SCRAM-SHA-256"
MECHANISM_PLUS = "SCRAM-SHA-256-PLUS"
MESSAGE_BYTES_MAX = 1024  # of either side, as PostgreSQL limits those of its clients
NONCE_BYTES_MIN = 16  # PostgreSQL draws 18

_BINDING_TYPE = b"tls-server-end-point"
_MALFORMED = "malformed SCRAM message"
_SHOWN_MAX = 30


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def _malformed(detail: str) -> PgWireError:
    return PgWireError(_MALFORMED, detail=detail)


# -- the server's side ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ScramProved:
    """The client has the key of the verifier."""

    client_key: ClientKey
    message: bytes  # server-final-message: proves to the client that we have the verifier


class ScramServer:
    """The server's side of one login. After a `PgWireError` it is over."""

    def __init__(self, verifier: ScramVerifier, *, nonce: bytes, binding: bytes | None) -> None:
        """Take what the login is about.

        Args:
            nonce: drawn for this login alone, at least NONCE_BYTES_MIN bytes.
            binding: data of this connection's certificate (`channel_binding_data`), or None if
                channel binding cannot be offered.
        """
        self._verifier = verifier
        self._binding = binding
        self._nonce = _encode_nonce(nonce)
        self._header = b""  # the client's words on channel binding
        self._first_bare = b""  # client-first-message-bare
        self._first_answer = b""  # server-first-message; empty before it
        self._whole_nonce = b""  # the client's and ours

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """What to offer, the best first."""
        return (MECHANISM,) if self._binding is None else (MECHANISM_PLUS, MECHANISM)

    def first_untrusted(self, mechanism: str, data: bytes) -> bytes:
        """Take client-first-message; return server-first-message.

        Raises:
            PgWireError: with PostgreSQL's words, for the client.
        """
        if mechanism not in self.mechanisms:
            raise PgWireError("client selected an invalid SASL authentication mechanism")
        header, bare = self._read_header(data, plus=mechanism == MECHANISM_PLUS)
        if bare.startswith(b"m"):
            raise PgWireError(
                "client requires an unsupported SCRAM extension", SqlState.FEATURE_NOT_SUPPORTED
            )
        attributes = bare.split(b",")
        _attribute(attributes, 0, b"n")
        client_nonce = _attribute(attributes, 1, b"r")
        _check_nonce(client_nonce)
        for extension in attributes[2:]:
            _check_extension(extension)
        self._header, self._first_bare = header, bare
        self._whole_nonce = client_nonce + self._nonce
        salt = base64.b64encode(self._verifier.salt)
        self._first_answer = b"r=%s,s=%s,i=%d" % (
            self._whole_nonce,
            salt,
            self._verifier.iterations,
        )
        return self._first_answer

    def final_untrusted(self, data: bytes) -> ScramProved | None:
        """Take client-final-message; return the key in it, or None if it does not fit.

        Raises:
            PgWireError: with PostgreSQL's words, for the client.
        """
        assert self._first_answer, "first_untrusted comes first"
        _check_message(data)
        attributes = data.split(b",")
        self._check_binding(_attribute(attributes, 0, b"c"))
        nonce = _attribute(attributes, 1, b"r")
        proofs = (i for i, one in enumerate(attributes) if i > 1 and one.startswith(b"p="))
        at = next(proofs, None)
        for extension in attributes[2:at]:
            _check_extension(extension)
        if at is None:
            raise _malformed("Attribute expected, but found end of string.")
        proof = decode_base64(attributes[at][2:])
        if proof is None or len(proof) != KEY_BYTES:
            raise _malformed("Malformed proof in client-final-message.")
        if at + 1 < len(attributes):
            raise _malformed("Garbage found at the end of client-final-message.")
        if not hmac.compare_digest(nonce, self._whole_nonce):
            raise PgWireError("invalid SCRAM response", detail="Nonce does not match.")
        without_proof = b",".join(attributes[:-1])
        whole = b",".join((self._first_bare, self._first_answer, without_proof))
        return self._verify(proof, whole)

    def _verify(self, proof: bytes, whole: bytes) -> ScramProved | None:
        verifier = self._verifier
        client_key = ClientKey(_xor(proof, hmac_sha256(verifier.stored_key, whole)))
        fits = hmac.compare_digest(client_key.stored_key(), verifier.stored_key)
        # A mock is asked last: what takes its time is done for real and mock verifiers alike.
        if not fits or verifier.mock:
            client_key.wipe()
            return None
        signature = base64.b64encode(hmac_sha256(verifier.server_key, whole))
        return ScramProved(client_key, b"v=" + signature)

    def _read_header(self, data: bytes, *, plus: bool) -> tuple[bytes, bytes]:
        """Return the client's words on channel binding, judged, and the rest of its message."""
        _check_message(data)
        flag = data[:1]
        if flag in (b"n", b"y"):
            self._check_unbound(flag, plus=plus)
            rest = data[1:]
        elif flag == b"p":
            if not plus:
                raise _malformed(
                    "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM "
                    "message includes channel binding data."
                )
            kind = data.partition(b",")[0]
            if kind != b"p=" + _BINDING_TYPE:
                shown = _shown_text(kind[2:])
                raise PgWireError(f'unsupported SCRAM channel-binding type "{shown}"')
            rest = data[len(kind) :]
        else:
            raise _malformed(f'Unexpected channel-binding flag "{_shown(flag)}".')
        if not rest.startswith(b","):
            raise _malformed(f'Comma expected, but found character "{_shown(rest)}".')
        if rest.startswith(b",a"):
            raise PgWireError(
                "client uses authorization identity, but it is not supported",
                SqlState.FEATURE_NOT_SUPPORTED,
            )
        if not rest.startswith(b",,"):
            shown = _shown(rest[1:])
            raise _malformed(f'Unexpected attribute "{shown}" in client-first-message.')
        bare = rest[2:]
        return data[: len(data) - len(bare)], bare

    def _check_unbound(self, flag: bytes, *, plus: bool) -> None:
        """Judge a client that does not bind its login."""
        if plus:
            raise _malformed(
                "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not "
                "include channel binding data."
            )
        if flag == b"y" and self._binding is not None:
            # We did offer it. The client heard otherwise, so somebody changed our offer.
            raise PgWireError(
                "SCRAM channel binding negotiation error",
                SqlState.INVALID_AUTHORIZATION,
                detail="The client supports SCRAM channel binding but thinks the server does not.  "
                "However, this server does support channel binding.",
            )

    def _check_binding(self, given: bytes) -> None:
        bound = self._header.startswith(b"p=")
        expected = self._header
        if bound:
            assert self._binding is not None, "PLUS was not offered"
            expected += self._binding
        if hmac.compare_digest(given, base64.b64encode(expected)):
            return
        if bound:
            raise PgWireError("SCRAM channel binding check failed", SqlState.INVALID_AUTHORIZATION)
        raise PgWireError("unexpected SCRAM channel-binding attribute in client-final-message")


# -- the client's side ------------------------------------------------------------------------


class ScramClient:
    """The client's side of one login. After a `PgWireError` it is over."""

    def __init__(self, keys: ScramKeys, *, nonce: bytes, binding: bytes | None) -> None:
        """Take what the login is about.

        Args:
            nonce: drawn for this login alone, at least NONCE_BYTES_MIN bytes.
            binding: data of the server's certificate (`channel_binding_data`), or None if the
                connection cannot be bound.
        """
        self._keys = keys
        self._binding = binding
        self._nonce = _encode_nonce(nonce)
        self._bound = b""  # the attribute c, decoded
        self._first_bare = b""
        self._whole = b""  # what both sides sign; empty before final_untrusted

    def first(self, offered: Sequence[str]) -> tuple[str, bytes] | None:
        """Return the mechanism to choose and client-first-message; None if none will do.

        Channel binding is chosen if it is offered and can be done. If it can be done but is not
        offered, the server is told so: if it did offer it, it notices who took that out.
        """
        if self._binding is not None and MECHANISM_PLUS in offered:
            mechanism, header = MECHANISM_PLUS, b"p=" + _BINDING_TYPE + b",,"
            self._bound = header + self._binding
        elif MECHANISM in offered:
            mechanism, header = MECHANISM, b"n,," if self._binding is None else b"y,,"
            self._bound = header
        else:
            return None
        # The name is empty: the server takes the one of the startup packet.
        self._first_bare = b"n=,r=" + self._nonce
        return mechanism, header + self._first_bare

    def final_untrusted(self, data: bytes) -> bytes:
        """Take server-first-message; return client-final-message.

        Salt and iterations are checked for their form and not used: the key is there already. If
        they are not those of the key's verifier, the server will refuse the proof.

        Raises:
            PgWireError: it is no such message, or an answer to another login.
        """
        assert self._first_bare, "first comes first"
        _check_message(data)
        attributes = data.split(b",")
        nonce = _attribute(attributes, 0, b"r")
        _check_nonce(nonce)
        salt = decode_base64(_attribute(attributes, 1, b"s"))
        iterations = parse_count(_attribute(attributes, 2, b"i"))
        if len(attributes) != 3 or not salt or iterations is None:
            raise _malformed("Unusable server-first-message.")
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise PgWireError("invalid SCRAM response", detail="Nonce does not match.")
        without_proof = b"c=%s,r=%s" % (base64.b64encode(self._bound), nonce)
        self._whole = b",".join((self._first_bare, data, without_proof))
        signature = hmac_sha256(self._keys.client_key.stored_key(), self._whole)
        proof = _xor(self._keys.client_key.reveal(), signature)
        return without_proof + b",p=" + base64.b64encode(proof)

    def verify_untrusted(self, data: bytes) -> None:
        """Take server-final-message; return if the server has the verifier of our key.

        Raises:
            PgWireError: it has not, or says that it could not go on.
        """
        assert self._whole, "final_untrusted comes first"
        _check_message(data)
        if data.startswith(b"e="):
            raise PgWireError("the server ended the SCRAM login with an error")
        attributes = data.split(b",")
        signature = decode_base64(_attribute(attributes, 0, b"v"))
        if signature is None or len(attributes) != 1:
            raise _malformed("Malformed server-final-message.")
        if not hmac.compare_digest(signature, hmac_sha256(self._keys.server_key, self._whole)):
            raise PgWireError(
                "the server could not prove that it knows the role",
                SqlState.INVALID_AUTHORIZATION,
            )


# -- the parts of a message -------------------------------------------------------------------


def _encode_nonce(nonce: bytes) -> bytes:
    if len(nonce) < NONCE_BYTES_MIN:
        raise ValueError(f"a nonce has at least {NONCE_BYTES_MIN} bytes")
    return base64.b64encode(nonce)


def _check_message(data: bytes) -> None:
    if not data:
        raise _malformed("The message is empty.")
    if b"\0" in data or len(data) > MESSAGE_BYTES_MAX:
        raise _malformed("Message length does not match input length.")


def _attribute(attributes: Sequence[bytes], index: int, letter: bytes) -> bytes:
    """Return the value of the attribute that must stand at this place."""
    attribute = attributes[index] if index < len(attributes) else b""
    if not attribute.startswith(letter):
        found = _shown(attribute)
        raise _malformed(f'Expected attribute "{letter.decode()}" but found "{found}".')
    _check_equals(attribute)
    return attribute[2:]


def _check_extension(attribute: bytes) -> None:
    """Pass over an attribute that is not known, if it has the form of one."""
    if not attribute[:1].isalpha():
        found = _shown(attribute)
        raise _malformed(f'Attribute expected, but found invalid character "{found}".')
    _check_equals(attribute)


def _check_equals(attribute: bytes) -> None:
    if attribute[1:2] != b"=":
        raise _malformed(f'Expected character "=" for attribute "{attribute[:1].decode()}".')


def _shown(text: bytes) -> str:
    """Return the first byte of a peer's text in a form that is fit for an error and a log."""
    octet = text[0] if text else 0  # PostgreSQL's strings end with a zero
    return f"'{chr(octet)}'" if 0x21 <= octet <= 0x7E else f"0x{octet:02x}"


def _shown_text(text: bytes) -> str:
    """Return the begin of a peer's text in a form that is fit for an error and a log."""
    return "".join(chr(octet) if 0x21 <= octet <= 0x7E else "?" for octet in text[:_SHOWN_MAX])


def _check_nonce(nonce: bytes) -> None:
    if not nonce or not all(0x21 <= octet <= 0x7E for octet in nonce):
        raise PgWireError("non-printable characters in SCRAM nonce")
