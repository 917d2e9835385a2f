"""A webhook of the workshop, signed."""

import hmac
import json
import time


def signed(n: int, secret: str) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a webhook about one ticket, as good as no other."""
    event = {
        "event_id": f"{time.time_ns()}-{n}",
        "action": "ticket.changed",
        "ticket": {"id": str(n)},
        "at": "2026-01-02T03:04:05Z",
    }
    body = json.dumps({"account": "bench", "type": "events", "events": [event]}).encode()
    stamp = str(int(time.time()))
    signature = hmac.digest(secret.encode(), stamp.encode() + b"." + body, "sha256").hex()
    return body, {
        "Content-Type": "application/json",
        "X-Workshop-Timestamp": stamp,
        "X-Workshop-Signature": f"v1={signature}",
    }
