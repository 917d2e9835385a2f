"""The ceilings: a bare aiohttp handler that reads and answers, and a bare aiohttp client loop that POSTs.

`bare.py serve` prints its port and answers; `bare.py post URL NUMBER` prints POSTs a second.
"""

import asyncio
import sys
import time

import aiohttp
import uvloop
from aiohttp import web

AT_ONCE = 64
BODY = b"x" * 700


async def serve() -> None:
    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response()

    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sys.stdout.write(f"{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().create_future()


async def post(url: str, number: int) -> None:
    numbers = iter(range(number))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE)) as session:

        async def work() -> None:
            for n in numbers:
                headers = {"Content-Type": "application/json", "webhook-id": str(n)}
                async with session.post(
                    f"{url}/cb/{n % 100}", data=BODY, headers=headers
                ) as answer:
                    await answer.read()

        began = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        sys.stdout.write(f"{number / (time.perf_counter() - began)}\n")


if __name__ == "__main__":
    uvloop.run(serve() if sys.argv[1] == "serve" else post(sys.argv[2], int(sys.argv[3])))
