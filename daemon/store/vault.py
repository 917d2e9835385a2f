"""The vault: what providers and owners keep secret, sealed with AES-256-GCM under a key that is not in the database.

The key file holds one key a line, `<id>:<base64 of 32 bytes>`; the first seals, all open.  To rotate, put a new
key on the first line and run `tidings vault rotate`, then take the old line away.
"""

import base64
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from daemon.errors import ConfigError
from daemon.store.database import Conn, Db

NONCE = 12  # bytes, as GCM wants it

KEY = 32  # bytes, as AES-256 wants it

PUT = """
INSERT INTO vault (instance_id, name, key_id, sealed)
SELECT $1, name, $2, sealed FROM unnest($3::text[], $4::bytea[]) AS secret (name, sealed)
ON CONFLICT (instance_id, name) DO UPDATE SET key_id = excluded.key_id, sealed = excluded.sealed
"""

DROP = "DELETE FROM vault WHERE instance_id = $1 AND name = ANY($2::text[])"

DROP_ALL = "DELETE FROM vault WHERE instance_id = $1"

GET = "SELECT instance_id, name, key_id, sealed FROM vault WHERE instance_id = $1"

NOT_SEALED_BY = """
SELECT instance_id, name, key_id, sealed FROM vault WHERE key_id <> $1 ORDER BY instance_id, name LIMIT $2 FOR UPDATE
"""


class Keys:
    """The keys that seal and open; never shown."""

    def __init__(self, keys: Sequence[tuple[str, bytes]]) -> None:
        self.current = keys[0][0]
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys}

    def seal(self, instance_id: int, name: str, secret: str) -> bytes:
        """*secret* sealed for this instance and name: moved to another row, it does not open."""
        nonce = os.urandom(NONCE)
        return nonce + self._ciphers[self.current].encrypt(
            nonce, secret.encode(), _bound_to(instance_id, name)
        )

    def open(self, instance_id: int, name: str, key_id: str, sealed: bytes) -> str:
        """The secret; raises `ConfigError` when its key is missing or does not fit."""
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise ConfigError(
                f"vault: the key {key_id!r} that sealed {name} of instance {instance_id} is not in the key file; "
                "restore that line of [vault] key_file"
            )
        try:
            opened = cipher.decrypt(sealed[:NONCE], sealed[NONCE:], _bound_to(instance_id, name))
        except (InvalidTag, ValueError) as error:
            raise ConfigError(
                f"vault: {name} of instance {instance_id} does not open with key {key_id!r}; "
                "the key file belongs to another database, or the row was changed"
            ) from error
        return opened.decode()


def load_keys(path: Path, *, create: bool) -> Keys:
    """Read the key file; with *create*, make one (readable by its owner only) where there is none.

    Raises `ConfigError` for a file that cannot be read or holds no usable key.
    """
    if create and not path.exists():
        _create(path)
    try:
        lines = path.read_text().split()
    except OSError as error:
        raise ConfigError(
            f"vault: [vault] key_file {path} cannot be read: {error.strerror}"
        ) from error
    except UnicodeDecodeError:
        raise ConfigError(f"vault: [vault] key_file {path} is not text") from None
    keys: list[tuple[str, bytes]] = []
    for number, line in enumerate(lines, 1):
        key_id, _, encoded = line.partition(":")
        try:
            key = base64.b64decode(encoded, validate=True)
        except ValueError:
            key = b""
        if not key_id or len(key) != KEY:
            raise ConfigError(
                f"vault: line {number} of [vault] key_file {path} is not <id>:<base64 of 32 bytes>"
            )
        if key_id in dict(keys):
            raise ConfigError(
                f"vault: [vault] key_file {path} has two keys {key_id!r}; give the new one another id"
            )
        keys.append((key_id, key))
    if not keys:
        raise ConfigError(
            f"vault: [vault] key_file {path} holds no key; write <id>:<base64 of 32 bytes> into it"
        )
    return Keys(keys)


def _create(path: Path) -> None:
    """Make the key file, whole and on the disk before it has its name; leave one that is there alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(f"k1:{base64.b64encode(os.urandom(KEY)).decode()}\n")
            file.flush()
            os.fsync(handle)
        # Of two processes that start together one gives its file the name, the other reads that one.
        with suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink()


async def put(conn: Conn, keys: Keys, instance_id: int, secrets: Mapping[str, str | None]) -> None:
    """Store *secrets* of an instance, inside the caller's transaction; a None removes that one."""
    kept = {name: secret for name, secret in secrets.items() if secret is not None}
    if kept:
        sealed = [keys.seal(instance_id, name, secret) for name, secret in kept.items()]
        await conn.execute(PUT, instance_id, keys.current, list(kept), sealed)
    if gone := [name for name, secret in secrets.items() if secret is None]:
        await conn.execute(DROP, instance_id, gone)


async def forget(conn: Conn, instance_id: int) -> None:
    """Remove everything of an instance, inside the caller's transaction."""
    await conn.execute(DROP_ALL, instance_id)


async def get(db: Db, keys: Keys, instance_id: int) -> dict[str, str]:
    """An instance's secrets, in clear."""
    rows = await db.fetch(GET, instance_id)
    return {
        row["name"]: keys.open(instance_id, row["name"], row["key_id"], row["sealed"])
        for row in rows
    }


async def rotate(conn: Conn, keys: Keys, *, limit: int = 500) -> int:
    """Seal up to *limit* old secrets under the current key, in the caller's transaction; how many there were."""
    rows = await conn.fetch(NOT_SEALED_BY, keys.current, limit)
    for row in rows:
        secret = keys.open(row["instance_id"], row["name"], row["key_id"], row["sealed"])
        await put(conn, keys, row["instance_id"], {row["name"]: secret})
    return len(rows)


def _bound_to(instance_id: int, name: str) -> bytes:
    return f"{instance_id}/{name}".encode()
