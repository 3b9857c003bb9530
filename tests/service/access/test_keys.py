"""The keys file, and the rate of a key."""

from hashlib import sha256
from pathlib import Path

import pytest

from service.access.keys import Keys, KeysError, add_key, read_keys, shared_rates
from service.access.watched import Watched
from service.errors import RateLimitError, UnauthorizedError

DIGEST = sha256(b"sesame").hexdigest()
OTHER = sha256(b"another key").hexdigest()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def bearer(key: str) -> bytes:
    return f"Bearer {key}".encode()


def write(folder: Path, text: str) -> Path:
    path = folder / "keys.toml"
    path.write_text(text)
    return path


def test_added_key_is_known_and_not_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    one, two = add_key(path, "one"), add_key(path, "two", 2.5, 7)
    keys = Keys(path)
    assert [keys.check(bearer(key)).name for key in (one, two)] == ["one", "two"]
    assert len(one) > 43 and one != two
    assert one not in path.read_text() and two not in path.read_text()
    assert [(key.interval_s, key.burst) for key in read_keys(path)] == [(0.0, 1), (0.4, 7)]


def test_added_key_leaves_the_text_before_it(tmp_path: Path) -> None:
    path = write(tmp_path, f'# ours\n[one]\nsha256 = "{DIGEST}" # by hand\n')
    add_key(path, "two")
    assert path.read_text().startswith(f'# ours\n[one]\nsha256 = "{DIGEST}" # by hand\n')
    assert [key.name for key in read_keys(path)] == ["one", "two"]


@pytest.mark.parametrize("name", ["one", "a b", "", "a" * 65, "a]\n[b", "\x1b[31m"])
def test_key_is_not_added(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, f'[one]\nsha256 = "{DIGEST}"\n')
    before = path.read_text()
    with pytest.raises(KeysError):
        add_key(path, name)
    assert path.read_text() == before


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer sesamE",
        b"Basic sesame",
        b"sesame",
        b"Bearer " + DIGEST.encode(),
        b"Bearer sesame, Bearer sesame",
        b"Bearer \xff\x00",
    ],
)
def test_other_credentials_are_refused_without_a_word_of_them(tmp_path: Path, sent: bytes) -> None:
    keys = Keys(write(tmp_path, f'[one]\nsha256 = "{DIGEST}"\n'))
    assert keys.check(b"bearer sesame").name == "one"
    with pytest.raises(UnauthorizedError) as caught:
        keys.check(sent)
    assert "sesam" not in caught.value.message and DIGEST not in caught.value.message
    assert caught.value.headers == ((b"www-authenticate", b"Bearer"),)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[one", "expected TOML"),
        ("\xff", "expected TOML|sha256|table"),
        ("one = 3", r"\[one\]: expected a table"),
        ("[one]\n", r"\[one\]: sha256: expected 64 hexadecimal digits"),
        ('[one]\nsha256 = "12"\n', r"\[one\]: sha256: expected 64"),
        ("[one]\nsha256 = 12\n", r"\[one\]: sha256: expected 64"),
        (f'[one]\nsha256 = "{DIGEST}"\nrate = 3\n', "expected burst, requests_per_s, sha256, got"),
        (f'[one]\nsha256 = "{DIGEST}"\nrequests_per_s = -1\n', "requests_per_s: expected a number"),
        (f'[one]\nsha256 = "{DIGEST}"\nrequests_per_s = nan\n', "requests_per_s: expected"),
        (f'[one]\nsha256 = "{DIGEST}"\nrequests_per_s = true\n', "requests_per_s: expected"),
        (f'[one]\nsha256 = "{DIGEST}"\nburst = 0\n', "burst: expected a number from 1"),
        (f'["a b"]\nsha256 = "{DIGEST}"\n', "expected a table named by letters"),
        (f'[one]\nsha256 = "{DIGEST}"\n[two]\nsha256 = "{DIGEST}"\n', "another sha256 for each"),
        ("#" * (1 << 20) + "\n", "expected at most 4096 keys and 1048576 bytes"),
    ],
)
def test_wrong_file_is_refused_in_one_line(tmp_path: Path, text: str, match: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(KeysError, match=match) as caught:
        Keys(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(KeysError, match="foveal keys add"):
            Keys(path)


def test_changed_file_is_read_and_a_wrong_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, f'[one]\nsha256 = "{DIGEST}"\n')
    keys = Keys(path)
    watched = Watched([path], keys.read)
    watched.poll()
    path.write_text("[one")
    for _ in range(3):
        watched.poll()
    assert len(caplog.records) == 1 and "stays in use" in caplog.text
    assert keys.check(b"Bearer sesame").name == "one"
    path.unlink()
    watched.poll()
    assert keys.check(b"Bearer sesame").name == "one"
    path.write_text(f'[two]\nsha256 = "{OTHER}"\n')
    watched.poll()
    assert keys.check(b"Bearer another key").name == "two"
    with pytest.raises(UnauthorizedError):
        keys.check(b"Bearer sesame")


def test_rate_and_burst(tmp_path: Path) -> None:
    clock = Clock()
    text = f'[one]\nsha256 = "{DIGEST}"\nrequests_per_s = 10\nburst = 3\n'
    keys = Keys(write(tmp_path, text), clock=clock)
    key = keys.check(b"Bearer sesame")
    for _ in range(3):
        keys.count(key)
    with pytest.raises(RateLimitError, match="at most 10 requests/s and 3 at once") as caught:
        keys.count(key)
    assert caught.value.status == 429 and caught.value.headers == ((b"retry-after", b"1"),)
    admitted = 0
    for _ in range(1000):  # refused requests cost the key nothing
        clock.now += 0.01
        admitted += keys.wait_s(key) == 0
    assert 99 <= admitted <= 101
    clock.now += 60
    assert [keys.wait_s(key) == 0 for _ in range(4)] == [True, True, True, False]


def test_slow_rate_names_its_wait(tmp_path: Path) -> None:
    text = f'[one]\nsha256 = "{DIGEST}"\nrequests_per_s = 0.1\n'
    keys = Keys(write(tmp_path, text), clock=Clock())
    key = keys.check(b"Bearer sesame")
    keys.count(key)
    with pytest.raises(RateLimitError) as caught:
        keys.count(key)
    assert caught.value.retry_after_s == 10


def test_workers_share_the_rate(tmp_path: Path) -> None:
    clock = Clock()
    text = f'[one]\nsha256 = "{DIGEST}"\nrequests_per_s = 10\nburst = 4\n'
    path = write(tmp_path, text)
    workers = [Keys(path, shared_rates(tmp_path), clock) for _ in range(2)]
    waits = [workers[i % 2].wait_s(workers[i % 2].check(b"Bearer sesame")) for i in range(6)]
    assert [wait_s == 0 for wait_s in waits] == [True] * 4 + [False] * 2


def test_rate_that_another_clock_left_behind_is_bounded(tmp_path: Path) -> None:
    clock = Clock()
    text = f'[one]\nsha256 = "{DIGEST}"\nrequests_per_s = 10\nburst = 4\n'
    keys = Keys(write(tmp_path, text), clock=clock)
    key = keys.check(b"Bearer sesame")
    clock.now = 1e6
    assert keys.wait_s(key) == 0
    clock.now = 5.0
    assert 0 < keys.wait_s(key) <= 0.4


def test_tally_has_names_and_no_more(tmp_path: Path) -> None:
    text = f'[one]\nsha256 = "{DIGEST}"\nrequests_per_s = 1\n'
    keys = Keys(write(tmp_path, text), clock=Clock())
    key = keys.check(b"Bearer sesame")
    keys.count(key)
    for _ in range(2):
        with pytest.raises(RateLimitError):
            keys.count(key)
    for i in range(5):
        with pytest.raises(UnauthorizedError):
            keys.check(b"Bearer %d" % i)
    assert keys.tally == {("one", "admitted"): 1, ("one", "limited"): 2, ("", "refused"): 5}
