"""The vault: secrets sealed, bound to their row, under keys that rotate."""

import base64
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from heart import connected, opening, state, writing
from hypothesis import given
from hypothesis import strategies as st

from daemon.errors import ConfigError
from daemon.store import vault
from daemon.store.vault import Keys, load_keys
from daemon.store.writer import Unit

OLD, NEW = ("k1", bytes(range(32))), ("k2", bytes(range(1, 33)))

SECRET = "hunter2-the-signing-key"


@given(st.text(max_size=200), st.text(max_size=40), st.integers(1, 2**62))
def test_what_is_sealed_opens_only_in_its_place(secret: str, name: str, instance: int) -> None:
    """A secret opens for its instance and name, and in no other row, changed by no bit; sealed twice it looks different."""
    secret, name = (text.encode(errors="replace").decode() for text in (secret, name))
    keys = Keys([OLD])
    sealed = keys.seal(instance, name, secret)
    assert keys.open(instance, name, "k1", sealed) == secret
    assert keys.seal(instance, name, secret) != sealed
    elsewhere = [
        (instance + 1, name, sealed),
        (instance, name + "x", sealed),
        (instance, name, sealed[:-1] + bytes([sealed[-1] ^ 1])),
        (instance, name, sealed[:10]),
        (instance, name, b""),
    ]
    for place, called, text in elsewhere:
        with pytest.raises(ConfigError, match="does not open"):
            keys.open(place, called, "k1", text)


def test_no_secret_is_in_the_database(dsn: str, keys: Keys, run: Any) -> None:
    """What an instance is given as a secret stands in no row of the log, of a projection or of the vault."""

    async def main() -> None:
        async with writing(dsn, keys) as w, connected(dsn, role=None) as conn:
            await w.append(opening())
            receipt = await w.append(Unit([state(key=True)], secrets={"key": SECRET}))
            assert await vault.get(conn, keys, receipt.position) == {"key": SECRET}
            tables = await conn.fetch(
                "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
            )
            for (table,) in tables:
                for row in await conn.fetch(f'SELECT t::text FROM "{table}" AS t'):  # noqa: S608 — our own names
                    assert SECRET not in row[0]
                    assert SECRET.encode().hex() not in row[0]

    run(main())


def test_a_secret_is_put_changed_removed_and_forgotten(dsn: str, keys: Keys, run: Any) -> None:
    """Secrets of one instance change one by one, a None removes one, and forgetting leaves those of others."""

    async def main() -> None:
        async with connected(dsn) as conn:
            await vault.put(conn, keys, 1, {"a": "x", "b": "y"})
            await vault.put(conn, keys, 2, {"a": "z"})
            await vault.put(conn, keys, 1, {"a": "new", "b": None, "c": "ü"})
            assert await vault.get(conn, keys, 1) == {"a": "new", "c": "ü"}
            await vault.forget(conn, 1)
            assert await vault.get(conn, keys, 1) == {}
            assert await vault.get(conn, keys, 2) == {"a": "z"}

    run(main())


def test_rotation_leaves_nothing_under_the_old_key(dsn: str, run: Any) -> None:
    """After rotating in chunks everything opens with the new key alone; a second rotation has nothing to do."""

    async def main() -> None:
        async with connected(dsn) as conn:
            for instance in range(7):
                await vault.put(conn, Keys([OLD]), instance, {"a": f"secret {instance}"})
            both = Keys([NEW, OLD])
            counts = []
            while not counts or counts[-1]:
                async with conn.transaction():
                    counts.append(await vault.rotate(conn, both, limit=3))
            assert counts == [3, 3, 1, 0]
            for instance in range(7):
                assert await vault.get(conn, Keys([NEW]), instance) == {"a": f"secret {instance}"}

    run(main())


def test_a_missing_key_is_named(dsn: str, run: Any) -> None:
    """Opening without the key says which key, of what and where to put it; with a wrong key, that it does not fit."""

    async def main() -> None:
        async with connected(dsn) as conn:
            await vault.put(conn, Keys([OLD]), 7, {"password": SECRET})
            with pytest.raises(
                ConfigError, match=r"'k1' that sealed password of instance 7.*key_file"
            ):
                await vault.get(conn, Keys([NEW]), 7)
            with pytest.raises(ConfigError, match="does not open") as caught:
                await vault.get(conn, Keys([("k1", NEW[1])]), 7)
            assert SECRET not in str(caught.value)

    run(main())


def test_a_key_file_is_made_for_its_owner_only(tmp_path: Path) -> None:
    """Where there is no key file one is made, whole, readable by its owner only, and read the same ever after."""
    path = tmp_path / "state" / "vault.key"
    before = os.umask(0)
    try:
        keys = load_keys(path, create=True)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
    sealed = keys.seal(1, "a", SECRET)
    assert load_keys(path, create=True).open(1, "a", keys.current, sealed) == SECRET
    assert load_keys(path, create=False).open(1, "a", keys.current, sealed) == SECRET


def test_two_processes_that_start_together_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where another process makes the key file between our look and our making it, its key is the one."""
    path = tmp_path / "vault.key"
    line = f"k1:{base64.b64encode(OLD[1]).decode()}\n"
    fsync = os.fsync

    def meanwhile(handle: int) -> None:
        fsync(handle)
        path.write_text(line)

    monkeypatch.setattr(os, "fsync", meanwhile)
    keys = load_keys(path, create=True)
    assert path.read_text() == line
    assert Keys([OLD]).open(1, "a", "k1", keys.seal(1, "a", SECRET)) == SECRET
    assert list(tmp_path.iterdir()) == [path]


def test_the_first_key_seals_and_all_open(tmp_path: Path) -> None:
    """A key file with two lines seals under the first and opens both."""
    path = tmp_path / "keys"
    lines = [f"{key_id}:{base64.b64encode(key).decode()}" for key_id, key in (NEW, OLD)]
    path.write_text("\n".join(lines) + "\n")
    keys = load_keys(path, create=False)
    assert keys.current == "k2"
    assert keys.open(1, "a", "k1", Keys([OLD]).seal(1, "a", SECRET)) == SECRET
    assert Keys([NEW]).open(1, "a", "k2", keys.seal(1, "a", SECRET)) == SECRET


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "holds no key"),
        (b"k1", "line 1 of"),
        (b"k1:AAAA", "line 1 of"),
        (b"k1:" + base64.b64encode(OLD[1]) + b"\n:" + base64.b64encode(OLD[1]), "line 2 of"),
        (b"k1:!!!", "line 1 of"),
        (b"\xff\xfe", "is not text"),
        ((b"k1:" + base64.b64encode(OLD[1]) + b"\n") * 2, "two keys 'k1'"),
        (None, "cannot be read"),
    ],
)
def test_a_bad_key_file_says_what_is_wrong(
    tmp_path: Path, content: bytes | None, says: str
) -> None:
    """A key file that is missing, empty, binary or malformed is a ConfigError that names the file and shows no key."""
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=says) as caught:
        load_keys(path, create=False)
    assert str(path) in str(caught.value)
    assert base64.b64encode(OLD[1]).decode() not in str(caught.value)
