"""Cursors of lists: opaque and tamper-evident.

A cursor names the list it belongs to and the key of the last item seen, and is signed with a secret of
the deployment: a changed one, or one of another list or deployment, is refused.
"""

import hashlib
import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

from tollgate.kernel.errors import FieldError, InvalidInput

__all__ = ["read_cursor", "write_cursor"]

_SIGNATURE_BYTES: Final = 16


def write_cursor(secret: bytes, listing: str, last: str | None) -> str | None:
    """The cursor that continues a list after the item `last`; None when the list has ended."""
    if last is None:
        return None
    payload = json.dumps([listing, last]).encode()
    return urlsafe_b64encode(_sign(secret, payload) + payload).decode().rstrip("=")


def read_cursor(secret: bytes, listing: str, cursor: str | None) -> str | None:
    """The key of the last item seen.

    Raises:
        InvalidInput: the cursor is not one of ours for this list.
    """
    if not cursor:
        return None
    try:
        raw = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        signature, payload = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
        if hmac.compare_digest(signature, _sign(secret, payload)):
            _, last = json.loads(payload)
            # Base64 reads several spellings of the same bytes: only ours passes, and only that of this list.
            if cursor == write_cursor(secret, listing, last):
                return str(last)
    except ValueError:
        pass
    raise InvalidInput([FieldError("/cursor", "is not a cursor of this list: take next_cursor as it came")])


def _sign(secret: bytes, payload: bytes) -> bytes:
    return hmac.new(secret, payload, hashlib.sha256).digest()[:_SIGNATURE_BYTES]
