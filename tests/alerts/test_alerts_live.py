"""Alerts of a daemon that is a process of its own, configured by variables, killed and started again."""

import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from alerts.telling import KEY, PATH, Operator
from heart import until
from journey.running import API, receiving, running
from journey.test_verbs_live import instance, tell, tidings
from servers import serving

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def test_a_callback_that_is_gone_is_told_and_mended(dsn: str, tmp_path: Path, run: Run) -> None:
    """410 disables the callback and is told, also by a daemon that was killed meanwhile; the remedy that it names works; what a person does at the command line is not told."""

    async def main() -> None:
        operator = Operator()
        async with (
            serving(operator.answer) as origin,
            receiving() as receiver,
            running(
                dsn, tmp_path, TIDINGS_ALERTS_URL=origin + PATH, TIDINGS_ALERTS_KEY=KEY
            ) as daemon,
        ):
            api, one = await instance(daemon, receiver)
            receiver.status = lambda: 410
            operator.open.clear()
            await tell(api, one)
            await until(lambda: operator.posted, within=15)
            await daemon.kill()
            operator.open.set()
            await daemon.start()
            await until(lambda: len(operator.accepted) == 1, within=15)

            first, again = operator.posted
            assert (first.id, first.body) == (again.id, again.body)
            assert (False, True) == (first.repeat, again.repeat)
            told = again.verified()
            assert "callback.disabled" == told["type"]
            assert (one, "Journey", "workshop", "journey") == tuple(
                told["data"][name]
                for name in ("instanceId", "instanceName", "elementKey", "organization")
            )
            named = re.search(r"(PUT) (/elements/api-v2\S+)", told["data"]["remedy"])
            assert named is not None
            receiver.status = lambda: 200
            status, answered = await api.call(named[1], named[2].removeprefix(API))
            assert (200, True) == (status, answered["enabled"])
            _, _, heard = await tell(api, one)
            await receiver.until(heard)

            await tidings(daemon, "instances", "pause", one, "--callback")
            await tidings(daemon, "instances", "resume", one)
            receiver.status = lambda: 410
            await tell(api, one)
            await until(lambda: len(operator.accepted) == 2, within=15)
            assert first.id != operator.posted[-1].id
            assert not operator.posted[-1].repeat
            assert PATH not in str(daemon.lines)
            assert KEY not in str(daemon.lines)

    run(main(), limit=60)  # type: ignore[call-arg]  # the fixture takes it
