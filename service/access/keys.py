"""API keys: a file of names, hashes and rates, and what a request's credential is worth.

A key is 256 random bits, so one round of SHA-256 keeps it: there is nothing to guess that a slow
hash would protect, as there is for a password that a person chose. The file is TOML, a table a key:

    [mobile-app]
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    requests_per_s = 50     # optional; without it there is no limit
    burst = 100             # optional; requests at once after a pause

Keys themselves are stored nowhere and appear in no message.
"""

import hmac
import mmap
import os
import re
import secrets
import time
import tomllib
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from models.files import write_atomically
from service.errors import RateLimitError, UnauthorizedError

# Secret scanners and people know a key by it.
_PREFIX = "foveal_"
_KEY_BYTES = 32
# A page of memory holds the rates of 512 keys; a file of 1 MiB about 10,000.
MAX_KEYS = 4096
MAX_FILE_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FIELDS = frozenset({"sha256", "requests_per_s", "burst"})


class Rates(Protocol):
    """One number for each key."""

    def __getitem__(self, slot: int, /) -> float:
        """Return a key's number."""

    def __setitem__(self, slot: int, value: float, /) -> None:
        """Change a key's number."""


class KeysError(ValueError):
    """The keys file is wrong; the message names the file, and what is wrong in it."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key, as the file describes it.

    Attributes:
        name: Whose it is.
        digest: SHA-256 of the key, 32 bytes.
        interval_s: Seconds a request is worth, 0: no limit.
        burst: Requests at once after a pause, 1 or more.
        slot: Its place among all keys.
    """

    name: str
    digest: bytes
    interval_s: float
    burst: int
    slot: int


class Keys:
    """The keys of a file.

    Args:
        path: The file.
        rates: One number for each key: until when its requests are paid for, seconds of ``clock``.
            Workers share it, so that a key has one rate however many workers there are.
        clock: Monotonic seconds, the same for all workers.

    Attributes:
        tally: Requests since it was last cleared, by key and outcome. Names come from the file, so
            there are no more of them than it had keys.

    Raises:
        KeysError: The file is wrong.
    """

    def __init__(
        self,
        path: Path,
        rates: Rates | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self._paid_until = array("d", bytes(8 * MAX_KEYS)) if rates is None else rates
        self._clock = clock
        self._by_digest: dict[bytes, Key] = {}
        self.tally: Counter[tuple[str, str]] = Counter()
        self.read()

    def read(self) -> None:
        """Read the file again.

        Raises:
            KeysError: The file is wrong; the keys stay as they were.
        """
        self._by_digest = {key.digest[:16]: key for key in read_keys(self.path)}

    def find(self, authorization: bytes) -> Key | None:
        """Return the key in a header ``Authorization``, None if it holds none of the file's.

        Its time depends on the hash of what was sent, never on how much of a key is right.
        """
        scheme, _, sent = authorization.partition(b" ")
        digest = sha256(sent.strip()).digest()
        key = self._by_digest.get(digest[:16])
        is_known = key is not None and hmac.compare_digest(digest, key.digest)
        return key if is_known and scheme.lower() == b"bearer" else None

    def check(self, authorization: bytes) -> Key:
        """Return the key in a header ``Authorization``.

        Raises:
            UnauthorizedError: There is none, or one that the file does not have.
        """
        key = self.find(authorization)
        if key is None:
            self.tally["", "refused"] += 1
            raise UnauthorizedError(
                "authorization: expected Bearer and a key of this service, got "
                + ("another credential" if authorization else "no credential")
            )
        return key

    def count(self, key: Key) -> None:
        """Count a request against the rate of its key.

        Raises:
            RateLimitError: The key sent more than its rate and its burst.
        """
        wait_s = self.wait_s(key)
        self.tally[key.name, "limited" if wait_s > 0 else "admitted"] += 1
        if wait_s > 0:
            raise RateLimitError(
                f"key {key.name!r}: expected at most {1 / key.interval_s:g} requests/s and "
                f"{key.burst} at once; send fewer, or raise requests_per_s in the keys file",
                max(1, -int(-wait_s // 1)),
            )

    def wait_s(self, key: Key) -> float:
        """Count a request if it may be answered now; else return the seconds until it may.

        The generic cell rate algorithm (ITU-T I.371): one number a key holds the whole state.
        """
        interval_s = key.interval_s
        if not interval_s:
            return 0.0
        now = self._clock()
        most = now + interval_s * (key.burst - 1)
        paid_until = min(max(self._paid_until[key.slot], now), most + interval_s)
        if paid_until > most + 1e-9:
            return paid_until - most
        self._paid_until[key.slot] = paid_until + interval_s
        return 0.0


def read_keys(path: Path) -> list[Key]:
    """Read a keys file.

    Raises:
        KeysError: It cannot be read, or is wrong.
    """
    if not path.is_file():  # a FIFO would be waited for
        raise KeysError(f"{path}: expected a keys file; make one with `foveal keys add NAME`")
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
        document = tomllib.loads(text[:MAX_FILE_BYTES].decode())
    except OSError as error:
        raise KeysError(f"{path}: expected a keys file, got: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise KeysError(f"{path}: expected TOML with a table for each key, got: {error}") from None
    if len(text) > MAX_FILE_BYTES or len(document) > MAX_KEYS:
        raise KeysError(f"{path}: expected at most {MAX_KEYS} keys and {MAX_FILE_BYTES} bytes")
    keys = [_read_key(path, name, document[name], slot) for slot, name in enumerate(document)]
    if len({key.digest for key in keys}) < len(keys):
        raise KeysError(f"{path}: expected another sha256 for each name, got one twice")
    return keys


def _read_key(path: Path, name: str, fields: Any, slot: int) -> Key:
    where = f"{path}: [{name}]"
    if not _NAME.fullmatch(name) or not isinstance(fields, dict):
        raise KeysError(f"{where}: expected a table named by letters, digits, - and _, at most 64")
    if unknown := sorted(fields.keys() - _FIELDS):
        raise KeysError(f"{where}: expected {', '.join(sorted(_FIELDS))}, got {unknown[0]!r}")
    try:
        digest = bytes.fromhex(fields.get("sha256", ""))
    except (TypeError, ValueError):
        digest = b""
    if len(digest) != 32:
        raise KeysError(f"{where}: sha256: expected 64 hexadecimal digits; `foveal keys add`")
    rate = fields.get("requests_per_s", 0.0)
    if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 <= rate <= 1e6:
        raise KeysError(f"{where}: requests_per_s: expected a number from 0 to 1e6, got {rate!r}")
    burst = fields.get("burst", max(1, round(rate)))
    if not isinstance(burst, int) or isinstance(burst, bool) or not 1 <= burst <= 1_000_000:
        raise KeysError(f"{where}: burst: expected a number from 1 to 1,000,000, got {burst!r}")
    return Key(name, digest, 1 / rate if rate else 0.0, burst, slot)


def add_key(path: Path, name: str, requests_per_s: float = 0.0, burst: int = 0) -> str:
    """Make a key and append its hash to a keys file, which is made if it does not exist.

    Args:
        path: The keys file.
        name: Whose key it is; not in the file yet.
        requests_per_s: Its rate; 0: no limit.
        burst: Requests at once after a pause; 0: one second's.

    Returns:
        The key, which is kept nowhere.

    Raises:
        KeysError: The name is taken or invalid, or the file is wrong.
    """
    text = ""
    if path.exists():
        if any(key.name == name for key in read_keys(path)):
            raise KeysError(f"{path}: expected a new name, got {name!r}; remove its table first")
        text = path.read_text().rstrip("\n") + "\n\n"
    key = _PREFIX + secrets.token_urlsafe(_KEY_BYTES)
    fields: dict[str, Any] = {"sha256": sha256(key.encode()).hexdigest()}
    fields |= {"requests_per_s": requests_per_s} if requests_per_s else {}
    fields |= {"burst": burst} if burst else {}
    _read_key(path, name, fields, 0)
    lines = [f"{field} = {value!r}".replace("'", '"') for field, value in fields.items()]
    write_atomically(path, "\n".join([f"{text}[{name}]", *lines, ""]))
    return key


def shared_rates(folder: Path) -> Rates:
    """Return one number for each key that all workers of one supervisor share, zeros at first.

    Args:
        folder: A folder of this service alone, emptied at each start.
    """
    size = 8 * MAX_KEYS
    file = os.open(folder / f"key-rates-{os.getppid()}", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if os.fstat(file).st_size < size:
            os.pwrite(file, bytes(size), 0)  # not truncated to size: a full disk must fail here
        return memoryview(mmap.mmap(file, size)).cast("d")
    finally:
        os.close(file)
