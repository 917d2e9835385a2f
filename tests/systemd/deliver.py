"""Runs inside the machine, beside the service: posts a signed webhook and waits for the notification.

Only Python's own library: it is an integrator's application, not a part of tidings.
"""

import base64
import hmac
import json
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

API = "http://127.0.0.1:8080/elements/api-v2"
PORT = 9911
KEY = "what our callback verifies with"
SECRET = "what the workshop signs with"
MADE = Path("/mnt/made.json")
PATIENCE = 30.0  # seconds


def main(name: str) -> None:
    """Send one change called *name*; ends with an error unless exactly one true notification of it comes."""
    bodies: list[dict[str, Any]] = []
    came = threading.Event()

    class Callback(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            mine = base64.b64encode(hmac.digest(KEY.encode(), body, "sha256")).decode()
            if self.headers["Elements-Webhook-Signature"] != f"sha256={mine}":
                raise SystemExit("the signature is wrong")
            self.send_response(200)
            self.end_headers()
            bodies.append(json.loads(body))
            came.set()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", PORT), Callback)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    made = json.loads(MADE.read_text()) if MADE.exists() else create()
    post(made["encoded"], name)
    if not came.wait(PATIENCE):
        raise SystemExit(f"{name} never came")
    server.shutdown()
    events = [event for body in bodies for event in body["message"]["events"]]
    if [("CREATED", name)] != [(event["eventType"], event["objectId"]) for event in events]:
        raise SystemExit(f"came: {events}")


def create() -> dict[str, str]:
    """A user, by the command line, and an instance, by the API."""
    added = subprocess.run(
        ["runuser", "-u", "tidings", "--", "env", "STATE_DIRECTORY=/var/lib/tidings", "HOME=/var/lib/tidings",
         "/opt/tidings/bin/tidings", "users", "add", "machine", "--json"],
        check=True, capture_output=True, text=True, cwd="/",
    )  # fmt: skip
    configuration = {
        "api.key": "none",
        "signature.secret": SECRET,
        "event.vendor.type": "webhooks",
        "event.notification.enabled": True,
        "event.notification.callback.url": f"http://127.0.0.1:{PORT}/",
        "event.notification.signature.key": KEY,
    }
    body = {"element": {"key": "workshop"}, "name": "machine", "configuration": configuration}
    headers = {"authorization": json.loads(added.stdout)["authorization"]}
    answer = call(f"{API}/instances", json.dumps(body).encode(), headers)
    made = {"encoded": base64.b64encode(str(answer["id"]).encode()).decode()}
    MADE.write_text(json.dumps(made))
    return made


def post(encoded: str, name: str) -> None:
    """The workshop's webhook about a ticket called *name*."""
    event = {
        "event_id": name,
        "action": "ticket.opened",
        "ticket": {"id": name},
        "at": "2026-01-02T03:04:05Z",
    }
    body = json.dumps({"account": "machine", "type": "events", "events": [event]}).encode()
    stamp = str(int(time.time()))
    signature = hmac.digest(SECRET.encode(), stamp.encode() + b"." + body, "sha256").hex()
    call(
        f"{API}/events/workshop/{encoded}",
        body,
        {"X-Workshop-Signature": f"v1={signature}", "X-Workshop-Timestamp": stamp},
    )


def call(url: str, body: bytes, headers: dict[str, str]) -> Any:
    """POST; the JSON of a 2xx answer, None for an empty one."""
    request = urllib.request.Request(url, body, {"content-type": "application/json", **headers})  # noqa: S310 — our own http address
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310 — likewise
        text = answer.read()
    return json.loads(text) if text else None


if __name__ == "__main__":
    main(sys.argv[1])
