"""What providers post, through the HTTP server into the log."""

import asyncio
import base64
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import orjson
import pytest
from heart import connected, until
from proxy import Proxy
from webhooks.posting import Site, body_of, event, sign
from yarl import URL

from daemon.store import instances
from daemon.store.writer import Unit
from daemon.webhook_urls import encode_id

Open = Callable[..., AbstractAsyncContextManager[Site]]
Run = Callable[..., Any]

CREATED = [("CREATED", "contacts", "1")]
BODY = body_of(event(1))


# Whose it is.


def test_addresses(open_site: Open, run: Run) -> None:
    """An instance is reached by its encoded id, its id, the header and its account; with the API's prefix too."""

    async def main() -> None:
        async with open_site() as s:
            one = await s.create()
            ways = [
                (f"signed/{encode_id(one)}", {}),
                (f"signed/{encode_id(one).rstrip('=')}", {}),
                (f"signed/{one}", {}),
                ("signed", {"Element-Instances": str(one)}),
                ("signed", {}),
                ("signed/", {}),
                (f"../elements/api-v2/events/signed/{one}", {}),
            ]
            for number, (path, headers) in enumerate(ways):
                body = body_of(event(number))
                assert (200, b"") == await s.post(path, body, {**sign(body), **headers})
                assert ("CREATED", "contacts", str(number)) == (await s.told(one))[-1]

    run(main())


def test_several_instances_by_header(open_site: Open, run: Run) -> None:
    """The header may name several instances, by either form of the id; each has the event once."""

    async def main() -> None:
        async with open_site() as s:
            one, two, other = [await s.create() for _ in range(3)]
            named = f"{one}, {encode_id(two)},{one},999999,nonsense"
            status, _ = await s.post("signed", BODY, {**sign(BODY), "Element-Instances": named})
            assert 200 == status
            assert (CREATED, CREATED, []) == (
                await s.told(one),
                await s.told(two),
                await s.told(other),
            )
            assert (2, 0) == (s.webhooks.counts["accepted"], s.webhooks.counts["duplicate"])

    run(main())


def test_two_instances_of_one_account(open_site: Open, run: Run) -> None:
    """All instances of the account hear of an event, those of another account do not, and of two accounts each its own."""

    async def main() -> None:
        async with open_site() as s:
            one, two, other = [await s.create(account__id=a) for a in ("a", "a", "b")]
            body = body_of(event(1), event(2, account="b"))
            assert 200 == (await s.post("signed", body, sign(body)))[0]
            assert (CREATED, CREATED) == (await s.told(one), await s.told(two))
            assert [("CREATED", "contacts", "2")] == await s.told(other)

    run(main())


@pytest.mark.parametrize(
    "path", ["signed/{other}", "signed/999999", "signed/bm9wZQ==", "lost/{one}"]
)
def test_address_of_nobody(open_site: Open, run: Run, path: str) -> None:
    """An address that names no instance of that element is 404."""

    async def main() -> None:
        async with open_site() as s:
            one, other = await s.create(), await s.create("forms")
            where = path.format(one=one, other=other)
            assert 404 == (await s.post(where, BODY, sign(BODY)))[0]
            assert [] == await s.told()

    run(main())


def test_an_unguessable_address(open_site: Open, run: Run) -> None:
    """Who does not sign is believed at the address with the instance's secret, and at no other."""

    async def main() -> None:
        async with open_site() as s:
            one, other = await s.create("trusting"), await s.create("trusting", secret="other")
            body = orjson.dumps({"id": 1, "type": "contacts", "account": "a"})
            assert 200 == (await s.post(f"trusting/{encode_id(one)}.secret", body))[0]
            assert [("UPDATED", "contacts", "1")] == await s.told(one)
            status, text = await s.post(f"trusting/{encode_id(other)}.secret", body)
            assert (404, False) == (status, b".secret" in text)
            for path, headers in (
                (f"trusting/{encode_id(one)}", {}),
                (f"trusting/{one}.", {}),
                ("trusting", {}),
                ("trusting", {"Element-Instances": str(one)}),
            ):
                status, text = await s.post(path, body, headers)
                assert (401, True) == (status, b"webhookUrl" in text), path
            assert 1 == len(await s.told())
            assert [] == s.woken

    run(main())


def test_a_stranger_only_wakes_the_poller(open_site: Open, run: Run) -> None:
    """What comes without the secret of an unsigned provider hurries the polls of the account it names, and adds nothing."""

    async def main() -> None:
        async with open_site() as s:
            one = await s.create("trusting", event__vendor__type="both")
            body = orjson.dumps({"id": 1, "type": "tickets", "account": "a"})
            assert 200 == (await s.post("trusting", body))[0]
            assert ([one], []) == (s.woken, await s.told())

    run(main())


@pytest.mark.parametrize("vendor", ["both", None])
def test_both_poll_and_webhook(open_site: Open, run: Run, vendor: str | None) -> None:
    """What a poll will show is left to the poll, which is hurried on; what is not polled is taken from the webhook."""

    async def main() -> None:
        async with open_site() as s:
            one = await s.create(event__vendor__type=vendor)
            body = body_of(event(1), {**event(2), "type": "tickets"})
            assert 200 == (await s.post("signed", body, sign(body)))[0]
            assert [("CREATED", "tickets", "2")] == await s.told(one)
            assert [one] == s.woken

    run(main())


def test_the_customers_name_of_what_is_polled(open_site: Open, run: Run) -> None:
    """A webhook speaks of a resource by the provider's name; it is the polled one whatever the customer calls that."""

    async def main() -> None:
        async with open_site() as s:
            polled = '{"people": {"url": "/hubs/general/contacts", "idField": "id"}}'
            one = await s.create(event__vendor__type="both", event__poller__configuration=polled)
            body = body_of(event(1))
            assert 200 == (await s.post("signed", body, sign(body)))[0]
            assert ([one], []) == (s.woken, await s.told(one))

    run(main())


def test_unknown_account(open_site: Open, run: Run) -> None:
    """What is about an account that nobody has here is answered 2xx as the provider wants it, counted, and not kept."""

    async def main() -> None:
        async with open_site() as s:
            await s.create()
            body = body_of(event(1, account="stranger"))
            assert (200, b"") == await s.post("signed", body, sign(body, "whatever"))
            body = orjson.dumps({"id": 1, "account": "stranger"})
            assert (200, b"thanks") == await s.post("application", body, sign(body, "ours"))
            gone = {**sign(BODY), "Element-Instances": "999999"}
            assert 200 == (await s.post("signed", BODY, gone))[0]
            assert {"unknown": 3} == s.webhooks.counts
            assert [] == await s.told()

    run(main())


# Whether it is believed.


def test_signature_is_over_the_bytes(open_site: Open, run: Run) -> None:
    """The signature is that of the bytes as they came: of the same JSON written otherwise it is not."""

    async def main() -> None:
        async with open_site() as s:
            one = await s.create()
            spaced = b'{ "events" :' + orjson.dumps([event(1)]) + b"}\n"
            again = orjson.dumps(orjson.loads(spaced))
            assert 401 == (await s.post(f"signed/{one}", again, sign(spaced)))[0]
            assert 401 == (await s.post(f"signed/{one}", spaced, sign(again)))[0]
            assert 401 == (await s.post(f"signed/{one}", spaced))[0]
            assert ([], 3) == (await s.told(), s.webhooks.counts["refused"])
            assert 200 == (await s.post(f"signed/{one}", spaced, sign(spaced)))[0]
            kept = await s.context.pool.fetchval("SELECT data::text FROM log WHERE kind = 'change'")
            assert spaced.decode() == kept

    run(main())


def test_address_as_it_was_written(open_site: Open, run: Run) -> None:
    """Where the provider signs the address, it is taken as it was written, escapes and all."""

    async def main() -> None:
        async with open_site() as s:
            one = await s.create("address")
            path = f"/events/address/{base64.b64encode(str(one).encode()).decode().replace('=', '%3D')}"
            for query in ("", "?b=%7e&a=x+y"):
                body = orjson.dumps({"id": query})
                if not query:
                    body = b'{"id": "1"}'
                url = f"https://tidings.example.com{path}{query}"
                text = f"POST {path} {url} ".encode() + body
                async with s.session.post(
                    URL(s.origin + path + query, encoded=True), data=body, headers=sign(text)
                ) as answer:
                    assert 200 == answer.status
            assert 2 == len(await s.told(one))

    run(main())


def test_one_bad_signature_among_several(open_site: Open, run: Run) -> None:
    """Of several instances only those whose secret fits hear of it; when none fits it is refused."""

    async def main() -> None:
        async with open_site() as s:
            good, bad = await s.create(), await s.create(secret="another")
            assert 200 == (await s.post("signed", BODY, sign(BODY)))[0]
            assert (CREATED, []) == (await s.told(good), await s.told(bad))
            assert 401 == (await s.post("signed", BODY, sign(BODY, "neither")))[0]

    run(main())


# What becomes of it.


def test_repeats(open_site: Open, run: Run) -> None:
    """What comes again, by the same way or another, alone or among others, is told once and answered 200."""

    async def main() -> None:
        async with open_site() as s:
            one = await s.create()
            both = body_of(event(1), event(1, "changed"))
            for path, body in ((f"signed/{one}", BODY), ("signed", BODY), ("signed", both)):
                assert 200 == (await s.post(path, body, sign(body)))[0]
            assert [*CREATED, ("UPDATED", "contacts", "1")] == await s.told(one)
            assert {"accepted": 2, "duplicate": 2} == s.webhooks.counts

    run(main())


def test_repeats_at_once(open_site: Open, run: Run) -> None:
    """Twenty that come at the same moment are told once."""

    async def main() -> None:
        async with open_site() as s:
            one = await s.create()
            answers = await asyncio.gather(
                *(s.post(f"signed/{one}", BODY, sign(BODY)) for _ in range(20))
            )
            assert [(200, b"")] * 20 == answers
            assert CREATED == await s.told(one)

    run(main())


def test_form_and_get(open_site: Open, run: Run) -> None:
    """A form's fields and a query's are events as JSON is; the secret in the query is not kept."""

    async def main() -> None:
        async with open_site() as s:
            one = await s.create("forms")
            form = {"itemId": "7", "event": "uploaded", "ticket": '{"n": 1}'}
            assert 200 == (await s.post(f"forms/{one}.secret", form))[0]
            assert 200 == (await s.get(f"forms/{one}.secret?itemId=8&event=uploaded"))[0]
            assert 404 == (await s.get(f"forms/{one}.wrong?itemId=9&event=uploaded"))[0]
            assert 401 == (await s.get(f"forms/{one}?itemId=9&event=uploaded"))[0]
            assert [("CREATED", "files", "7"), ("CREATED", "files", "8")] == await s.told(one)
            kept = await s.context.pool.fetch("SELECT data::text FROM log WHERE kind = 'change'")
            assert {"n": 1} == orjson.loads(kept[0][0])["ticket"]
            assert not any("secret" in row[0] for row in kept)

    run(main())


def test_challenge(open_site: Open, run: Run) -> None:
    """A challenge is echoed, as a text that no browser takes for a page; a GET that is none is not believed."""

    async def main() -> None:
        async with open_site() as s:
            one = await s.create()
            for path in ("signed", f"signed/{one}"):
                url = f"{s.origin}/events/{path}?challenge=<b>"
                async with s.session.get(url) as answer:
                    assert b"<b>" == await answer.read()
                    assert "text/plain" == answer.content_type
                    assert "nosniff" == answer.headers["X-Content-Type-Options"]
            assert 401 == (await s.get(f"signed/{one}"))[0]

    run(main())


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("Contact", True),
        ("account, contacts", True),
        ("account", False),
        (" , ", True),
        ("<INSERT OBJECTS>", True),
        ("contactsList", False),
    ],
)
def test_event_objects(open_site: Open, run: Run, wanted: str, told: bool) -> None:  # noqa: FBT001 — a row of the table above
    """event.objects says which objects an instance hears of, in whatever case and number; unfilled, of all."""

    async def main() -> None:
        async with open_site() as s:
            one = await s.create(event__objects=wanted)
            assert 200 == (await s.post(f"signed/{one}", BODY, sign(BODY)))[0]
            assert (CREATED if told else []) == await s.told(one)
            assert int(not told) == s.webhooks.counts["ignored"]

    run(main())


def test_plurals(open_site: Open, run: Run) -> None:
    """`Company` is `companies` and `Address` is `addresses`."""

    async def main() -> None:
        async with open_site() as s:
            one = await s.create(event__objects="Company,address")
            body = body_of(
                event(1, type="companies"), event(2, type="Addresses"), event(3, type="Add")
            )
            assert 200 == (await s.post(f"signed/{one}", body, sign(body)))[0]
            assert ["1", "2"] == [object_id for _, _, object_id in await s.told(one)]

    run(main())


def test_events_off(open_site: Open, run: Run) -> None:
    """An instance whose events are off hears of nothing, and its provider is content."""

    async def main() -> None:
        async with open_site() as s:
            one = await s.create(event__notification__enabled="false")
            assert 200 == (await s.post(f"signed/{one}", BODY, sign(BODY)))[0]
            assert ([], 1) == (await s.told(), s.webhooks.counts["ignored"])

    run(main())


def test_poller_is_woken(open_site: Open, run: Run) -> None:
    """Of an instance that polls, a webhook wakes the poller; one that is not believed does not."""

    async def main() -> None:
        async with open_site() as s:
            one = await s.create(event__vendor__type="polling")
            hint = await s.create("hints", event__vendor__type="both")
            assert 200 == (await s.post(f"signed/{one}", BODY, sign(BODY)))[0]
            assert 401 == (await s.post(f"signed/{one}", BODY, sign(BODY, "wrong")))[0]
            assert 200 == (await s.post(f"hints/{hint}", b'{"id": 1}'))[0]
            assert ([one, hint], []) == (s.woken, await s.told())

    run(main())


def test_what_is_remembered_of_instances_goes_with_them(open_site: Open, run: Run) -> None:
    """Of an instance that was deleted the intake remembers nothing, once it looks at any again."""

    async def main() -> None:
        async with open_site() as s:
            ids = [await s.create(event__vendor__type="both") for _ in range(3)]
            for one in ids:
                assert 200 == (await s.post(f"signed/{one}", BODY, sign(BODY)))[0]
            assert set(ids) == set(s.webhooks._polled)
            for one in ids[:2]:
                gone = s.context.directory.get(one)
                assert gone is not None
                entry = instances.changed("instance.deleted", gone, resources=())
                await s.writer.append(Unit([entry], instance_id=one, forget=True))
            await s.context.directory.refresh()
            assert 404 == (await s.post(f"signed/{ids[0]}", BODY, sign(BODY)))[0]
            assert 200 == (await s.post(f"signed/{ids[2]}", BODY, sign(BODY)))[0]
            assert {ids[2]} == set(s.webhooks._polled)

    run(main())


def test_hint_that_nobody_follows(open_site: Open, run: Run) -> None:
    """A hint to an instance that does not poll is told as it came: nothing else would ever tell it."""

    async def main() -> None:
        async with open_site() as s:
            one = await s.create("hints", event__vendor__type="webhook")
            assert 200 == (await s.post(f"hints/{one}", b'{"id": 1}'))[0]
            assert ([], [("UNKNOWN", "files", "1")]) == (s.woken, await s.told(one))

    run(main())


# Limits and trouble.


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"{",
        body_of({"type": "contacts"}),
        body_of(event("a\0b")),
        body_of(event("x" * 5000)),
    ],
)
def test_body_that_cannot_be_kept(open_site: Open, run: Run, body: bytes) -> None:
    """A signed body that holds no event that can be read and kept is 400, and the next one is taken."""

    async def main() -> None:
        async with open_site() as s:
            one = await s.create()
            assert 400 == (await s.post(f"signed/{one}", body, sign(body)))[0]
            assert 200 == (await s.post(f"signed/{one}", BODY, sign(BODY)))[0]

    run(main())


def test_odd_queries(open_site: Open, run: Run) -> None:
    """Bytes in a query that are no UTF-8 do not break the intake."""

    async def main() -> None:
        async with open_site() as s:
            one = await s.create("forms")
            for number, odd in enumerate(("%ff", "%ed%a0%80", "%00")):
                url = f"{s.origin}/events/forms/{one}.secret?itemId={number}&name={odd}"
                async with s.session.get(URL(url, encoded=True)) as answer:
                    assert 200 == answer.status
            assert 3 == len(await s.told(one))

    run(main())


def test_too_large_and_too_slow(open_site: Open, run: Run) -> None:
    """A body beyond the limit is 413; one that does not arrive in time is 408."""

    async def main() -> None:
        async with open_site(body_limit=2048, body_timeout=1.0) as s:
            one = await s.create()
            large = body_of(event("x" * 3000))
            assert 413 == (await s.post(f"signed/{one}", large, sign(large)))[0]
            host, _, port = s.origin.removeprefix("http://").partition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            head = f"POST /events/signed/{one} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{"
            writer.write(head.encode())
            assert b" 408 " in await reader.readline()
            writer.close()
            await writer.wait_closed()

    run(main())


def test_database_away(open_site: Open, dsn: str, run: Run) -> None:
    """Without the database the provider gets 503 with Retry-After; sent again when it is back, nothing is lost or doubled."""

    async def main() -> None:
        async with Proxy(dsn) as proxy, open_site(through=proxy.dsn) as s:
            one = await s.create()
            proxy.refusing = True
            proxy.cut()
            for _ in range(2):
                url = f"{s.origin}/events/signed/{one}"
                async with s.session.post(url, data=BODY, headers=sign(BODY)) as answer:
                    assert (503, "5") == (answer.status, answer.headers["Retry-After"])
            proxy.refusing = False
            await until(lambda: s.writer.connected)
            assert 200 == (await s.post(f"signed/{one}", BODY, sign(BODY)))[0]
            assert CREATED == await s.told(one)

    run(main())


def test_answer_after_commit(open_site: Open, dsn: str, run: Run) -> None:
    """While the COMMIT is held nothing is answered; when the 200 is there, any connection sees the entry."""

    async def main() -> None:
        async with Proxy(dsn) as proxy, open_site(through=proxy.dsn) as s, connected(dsn) as conn:
            one = await s.create()
            held = proxy.watch_commit()
            posted = asyncio.create_task(s.post(f"signed/{one}", BODY, sign(BODY)))
            await held.happened.wait()
            done, _ = await asyncio.wait({posted}, timeout=0.1)
            assert not done
            assert 0 == await conn.fetchval("SELECT count(*) FROM log WHERE kind = 'change'")
            proxy.resume()
            assert (200, b"") == await posted
            assert 1 == await conn.fetchval("SELECT count(*) FROM log WHERE kind = 'change'")

    run(main())


def test_commit_that_takes_too_long(open_site: Open, dsn: str, run: Run) -> None:
    """A provider is not kept waiting: 503 in time; what was stored all the same is not told twice."""

    async def main() -> None:
        async with Proxy(dsn) as proxy, open_site(through=proxy.dsn, timeout=0.2) as s:
            one = await s.create()
            held = proxy.watch_commit()
            assert 503 == (await s.post(f"signed/{one}", BODY, sign(BODY)))[0]
            assert held.happened.is_set()
            proxy.resume()
            assert 200 == (await s.post(f"signed/{one}", BODY, sign(BODY)))[0]
            assert CREATED == await s.told(one)

    run(main())
