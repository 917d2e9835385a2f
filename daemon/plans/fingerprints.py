"""The name of one version of a record: equal content, equal name."""

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import orjson

_SIZE = 16  # bytes; the log stores one per entry


def fingerprint(record: Mapping[str, Any]) -> bytes:
    """16 bytes over the record as canonical JSON; the order of keys does not matter, that of lists does."""
    try:
        canonical = orjson.dumps(record, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        # orjson knows no integers beyond 64 bits and no lone surrogates; providers send both.
        canonical = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
    return blake2b(canonical, digest_size=_SIZE).digest()
