"""The instances in memory, as the log has them."""

import asyncio
from typing import Any

from heart import SIGNATURE_KEY, connected, create_instance, opening, state, writing

from daemon import webhook_urls
from daemon.store import accounts, database, vault
from daemon.store.directory import Directory
from daemon.store.vault import Keys
from daemon.store.writer import Unit


def test_it_follows_the_log(dsn: str, keys: Keys, run: Any) -> None:
    """After a refresh the directory has what was created, changed and deleted, by id, token, element and route; watchers hear."""

    async def main() -> None:
        async with writing(dsn, keys) as w, database.open_pool(dsn) as pool:
            await w.append(opening())
            old = await create_instance(w, token="old", more={"account": "A"})
            directory = Directory(pool=pool, keys=keys)
            await directory.load()
            changed = directory.watch()
            assert [i.id for i in directory.all()] == [old]
            await directory.refresh()
            assert not changed.is_set()
            new = await create_instance(w, token="new", more={"account": "B"})
            again = state(
                "instance.configured", instance_id=old, token="rotated", more={"account": "B"}
            )
            await w.append(Unit([again]))
            assert directory.routed("rest", "account", "A")
            await directory.refresh()
            assert changed.is_set()
            assert [i.id for i in directory.all()] == [old, new]
            assert {i.id for i in directory.routed("rest", "account", "B")} == {old, new}
            assert directory.routed("rest", "account", "A") == []
            assert directory.by_token("old") is None
            rotated = directory.by_token("rotated")
            assert rotated is not None
            assert rotated.id == old
            await w.append(Unit([state("instance.deleted", instance_id=old)]))
            await directory.refresh()
            assert directory.get(old) is None
            assert directory.by_token("rotated") is None
            assert [i.id for i in directory.of_element("rest")] == [new]
            assert [i.id for i in directory.of_organization(2)] == [new]

    run(main())


def test_secrets_are_read_once_and_anew_when_they_change(dsn: str, keys: Keys, run: Any) -> None:
    """Settings hold secrets in clear; a rotated one is seen after a refresh or `forget_settings`."""

    async def main() -> None:
        async with writing(dsn, keys) as w, database.open_pool(dsn) as pool:
            await w.append(opening())
            made = await w.append(Unit([state(key=True)], secrets={SIGNATURE_KEY: "first"}))
            directory = Directory(pool=pool, keys=keys)
            await directory.load()
            instance = directory.get(made.position)
            assert instance is not None
            many = await asyncio.gather(*[directory.settings(instance) for _ in range(5)])
            assert all(found is many[0] for found in many)
            assert many[0][SIGNATURE_KEY] == "first"
            assert instance.configuration[SIGNATURE_KEY] == "********"
            await w.append(Unit(instance_id=instance.id, secrets={SIGNATURE_KEY: "second"}))
            directory.forget_settings(instance.id)
            assert (await directory.settings(instance))[SIGNATURE_KEY] == "second"

    run(main())


def test_what_was_read_while_it_changed_is_not_kept(dsn: str, keys: Keys, run: Any) -> None:
    """Secrets that change while they are being read, or that are asked for with an instance of yesterday, do not stick."""

    async def main() -> None:
        async with (
            writing(dsn, keys) as w,
            database.open_pool(dsn, size=2) as pool,
            connected(dsn, role=None) as owner,
        ):
            await w.append(opening())
            made = await w.append(Unit([state(key=True)], secrets={SIGNATURE_KEY: "first"}))
            directory = Directory(pool=pool, keys=keys)
            await directory.load()
            before = directory.get(made.position)
            assert before is not None
            # The reading waits for this lock; meanwhile the instance changes and the directory hears of it.
            transaction = owner.transaction()
            await transaction.start()
            await owner.execute("LOCK TABLE vault IN ACCESS EXCLUSIVE MODE")
            reading = asyncio.create_task(directory.settings(before))
            waits = (
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'vault'::regclass"
            )
            while not await owner.fetchval(waits):
                assert not reading.done()
            entry = state("instance.configured", instance_id=before.id, key=True, more={"a": "b"})
            await w.append(Unit([entry]))
            await directory.refresh()
            await transaction.rollback()
            await w.append(Unit(instance_id=before.id, secrets={SIGNATURE_KEY: "second"}))
            await reading
            now = directory.get(before.id)
            assert now is not None
            settings = await directory.settings(now)
            assert settings[SIGNATURE_KEY] == "second"
            assert settings["a"] == "b"
            directory.forget_settings(now.id)
            await directory.settings(before)
            assert (await directory.settings(now))["a"] == "b"

    run(main())


def test_an_id_reads_back_from_an_address() -> None:
    """An instance's webhook address holds its id in base64, padded or not, or in clear; anything else is nobody's."""
    for number in (1, 12, 123, 10**17):
        encoded = webhook_urls.encode_id(number)
        assert webhook_urls.decode_id(encoded) == number
        assert webhook_urls.decode_id(encoded.rstrip("=")) == number
        assert webhook_urls.decode_id(str(number)) == number
    for text in ("", "=", "é", "MTIz!", "-1", "1" * 19, "YWJj", "1.5"):
        assert webhook_urls.decode_id(text) == -1


def test_a_user_is_let_in_by_two_secrets(dsn: str, keys: Keys, run: Any) -> None:
    """The two secrets of a user open the account, a wrong or another's one does not, and a removed user's neither."""

    async def main() -> None:
        async with writing(dsn, keys) as w, connected(dsn) as conn:
            entry, user, organization = accounts.new_user("ann", "acme")
            other, _, theirs = accounts.new_user("bob", "acme")
            first = await w.append(Unit([entry]))
            await w.append(Unit([other]))
            account = await accounts.authenticate(conn, user, organization)
            assert account is not None
            assert (account.name, account.organization, account.user_id) == (
                "ann",
                "acme",
                first.position,
            )
            assert account.organization_id == first.position
            assert await accounts.authenticate(conn, user, None) == account
            assert await accounts.authenticate(conn, user, theirs) is None
            assert await accounts.authenticate(conn, organization, organization) is None
            await w.append(Unit([accounts.removed_user(first.position)]))
            assert await accounts.authenticate(conn, user, organization) is None
            assert [r["removed"] is None for r in await accounts.users(conn)] == [False, True]
            shown = await conn.fetch("SELECT data::text FROM log")
            assert not any(user in r[0] or organization in r[0] for r in shown)
            assert await vault.get(conn, keys, first.position) == {}

    run(main())
