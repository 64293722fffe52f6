"""Recognise a Query by its shape: its bytes, but for which digits stand where it has any.

A program that writes its numbers into its queries sends a new text each time. Whether a text
concerns whoever follows a session takes several looks at it, and depends on no digit. So it is
enough to have judged one of the same shape: two calls into C tell.

Invariant: a shape that is known is proof, given that the function that judges does not tell digits
apart. Texts with a dollar sign are never learnt: what ends a string that is quoted by one may
depend on a digit. The header is proven too: a length that has no digit among its bytes is compared
as it is, and the last byte, which may be one, is compared by whoever asks.

Deliberately unknown here: what is judged, and the state of a conversation.
"""

from __future__ import annotations

DIGITS = bytes.maketrans(b"123456789", b"000000000")
SHAPE_BYTES_MAX = 1024  # so the other bytes of a length are below any digit's
SHAPES_MAX = 1024  # with the longest texts they take a megabyte
LEARN_EVERY = 4  # of those that were not known: of texts that never come again few are kept

_DOLLAR = ord("$")


class Shapes:
    """Pieces of one Query each that concern nobody, shared by all sessions."""

    def __init__(self) -> None:
        # Of pieces with their headers, after `translate(DIGITS)`. Who finds one here must still
        # compare the fifth byte of the piece with what is left of its size.
        self.known: set[bytes] = set()
        self._missed = 0

    def learn(self, piece: bytes) -> None:
        """Consider a piece that was not known, that is one Query and was found to concern nobody.

        When there is no room everything is forgotten: what is frequent comes back at once.
        """
        self._missed += 1
        if self._missed % LEARN_EVERY or len(piece) > SHAPE_BYTES_MAX or _DOLLAR in piece[5:]:
            return
        if len(self.known) >= SHAPES_MAX:
            self.known.clear()
        self.known.add(piece.translate(DIGITS))
