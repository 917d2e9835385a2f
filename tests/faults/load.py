"""The load, as a process of its own: provider and receiver at one address, told what to do by lines of JSON.

    python -m faults.load '{"seed": 1, "accounts": [["a0", false, [0, 1]], …], "modes": ["ok", …], "receipts": []}'

It prints its ports, then one line of JSON as the answer to each line of its input.
"""

import asyncio
import random
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import uvloop
from faults import checks
from faults.ledger import Account, Callback, Ledger
from faults.provider import Provider
from faults.receiver import Receiver
from faults.wire import Exchange, Request


class Load:
    """Provider and receiver with their ledger."""

    def __init__(self, chosen: dict[str, Any]) -> None:
        accounts = {
            name: Account(name, polled, callbacks) for name, polled, callbacks in chosen["accounts"]
        }
        of_callback = {n: one.name for one in accounts.values() for n in one.callbacks}
        callbacks = [
            Callback(of_callback[number], mode, number in chosen["receipts"])
            for number, mode in enumerate(chosen["modes"])
        ]
        self.ledger = Ledger(accounts=accounts, callbacks=callbacks)
        chance = random.Random(chosen["seed"])  # noqa: S311 — what it draws must come again
        self.provider = Provider(self.ledger, chance=chance)
        self.receiver = Receiver(self.ledger, chance=chance)

    def answer(self, exchange: Exchange, request: Request) -> None:
        """One request to either."""
        if request.method == "GET" and request.path.endswith("/things"):
            self.provider.answer(exchange, request)
        else:
            self.receiver.answer(exchange, request)

    def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """Do what *order* says; what there is to say of it."""
        match order:
            case {"do": "rate", "value": value}:
                self.provider.rate = value
            case {"do": "target", "host": host, "port": port, "path": path}:
                self.provider.target = (host, port, path)
            case {"do": "mend"}:
                for callback in self.ledger.callbacks:
                    callback.ailed, callback.mode = callback.mode, "ok"
            case {"do": "skew", "seconds": seconds}:
                self.provider.set_clock(seconds)
            case {"do": "forgive time"}:
                self.receiver.strict_time = False
            case {"do": "count"}:
                return {
                    "changes": len(self.ledger.events),
                    "arrivals": len(self.ledger.arrivals),
                    "unacknowledged": self.provider.unacknowledged,
                    "unpolled": len(self.provider.unpolled),
                }
            case {"do": "missing"}:
                missing = checks.lost(self.ledger)
                return {"unacknowledged": self.provider.unacknowledged, "missing": len(missing)}
            case {"do": "write", "path": path}:
                self.ledger.write(Path(path))
            case _:
                raise ValueError(order)
        return {}


async def main() -> None:
    """Serve and obey until the input ends."""
    loop = asyncio.get_running_loop()
    load = Load(orjson.loads(sys.argv[1]))
    exchange = partial(Exchange, load.answer)
    server = await loop.create_server(exchange, "127.0.0.1", 0, backlog=1024)
    deaf = socket.socket()  # it has a port, and refuses whoever comes there until somebody listens
    deaf.bind(("127.0.0.1", 0))
    orders = asyncio.StreamReader(limit=2**20)
    await loop.connect_read_pipe(partial(asyncio.StreamReaderProtocol, orders), sys.stdin)
    _say({"port": server.sockets[0].getsockname()[1], "deaf": deaf.getsockname()[1]})
    running = loop.create_task(load.provider.run())
    also: list[asyncio.Server] = []
    while line := await orders.readline():
        if running.done():
            running.result()
        order = orjson.loads(line)
        if order["do"] == "mend" and not also:
            also.append(await loop.create_server(exchange, sock=deaf, backlog=1024))
        _say(load.obey(order))
    running.cancel()


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    uvloop.run(main())
