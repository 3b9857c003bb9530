"""The scan of JPEGs once more, in Python, bit by bit as ITU T.81 has it: slow and plain."""

from typing import NamedTuple

MOST = 1152
FACTORS = {(1, 1): 1, (2, 1): 2, (2, 2): 3, (1, 2): 4, (4, 1): 5}
FITS, PROGRESSIVE, COLOURS, SAMPLING, UNUSUAL, DAMAGED = range(6)


class Refused(Exception):
    """Carries the number of the reason."""


class Channel(NamedTuple):
    name: int
    across: int
    down: int
    quantiser: int


Codes = dict[tuple[int, int], int]


class Bits:
    """The bits of the coded data up to a marker."""

    def __init__(self, data: bytes) -> None:
        plain, at = bytearray(), 0
        while at < len(data):
            if data[at] == 0xFF:
                if data[at + 1 : at + 2] != b"\0":
                    break
                at += 1
                plain.append(0xFF)
            else:
                plain.append(data[at])
            at += 1
        self.text = "".join(f"{byte:08b}" for byte in plain)
        self.rest = data[at:]
        self.at = 0

    def take(self, count: int) -> str:
        self.at += count
        if self.at > len(self.text):
            raise Refused(DAMAGED)
        return self.text[self.at - count : self.at]

    def symbol(self, codes: Codes) -> int:
        code = 0
        for length in range(1, 17):
            code = code << 1 | int(self.take(1))
            if (length, code) in codes:
                return codes[length, code]
        raise Refused(DAMAGED)

    def value(self, size: int) -> int:
        if not size:
            return 0
        text = self.take(size)
        return int(text, 2) if text[0] == "1" else int(text, 2) - (1 << size) + 1

    def end(self) -> None:
        if len(self.text) - self.at >= 8:
            raise Refused(DAMAGED)


class Twin:
    def __init__(self) -> None:
        self.steps: dict[int, bytes] = {}
        self.codes: dict[int, Codes] = {}
        self.channels: list[Channel] = []
        self.height = self.width = self.sampling = self.interval = 0
        self.adobe = -1
        self.exif: tuple[int, int] = (0, 0)

    def read(self, data: bytes) -> None:
        need(data[:2] == b"\xff\xd8" and len(data) >= 4)
        at = 2
        while len(data) - at >= 4 and data[at] == 0xFF:
            marker, size = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
            begin, at = at + 4, at + 2 + size
            need(size >= 2 and at <= len(data))
            content = data[begin:at]
            if marker == 0xDA:
                need(len(content) >= 6)
                self.scan(content, data[at:])
                return
            self.segment(marker, content, begin)
        raise Refused(DAMAGED)

    def segment(self, marker: int, content: bytes, begin: int) -> None:
        if marker == 0xDB:
            self.quantisers(content)
        elif marker == 0xC4:
            self.huffman(content)
        elif marker == 0xC0:
            self.frame(content)
        elif marker == 0xC2:
            raise Refused(PROGRESSIVE)
        elif marker == 0xDD:
            need(len(content) == 2)
            self.interval = int.from_bytes(content)
        elif marker == 0xE1 and content[:6] == b"Exif\0\0":
            need(self.exif == (0, 0), UNUSUAL)
            self.exif = begin + 6, begin + len(content)
        elif marker == 0xEE and content[:5] == b"Adobe" and len(content) >= 12:
            self.adobe = content[11]
        else:
            need(0xE0 <= marker <= 0xEF or marker == 0xFE, UNUSUAL)

    def quantisers(self, content: bytes) -> None:
        while len(content) >= 65:
            need(content[0] <= 3, UNUSUAL)
            self.steps[content[0]] = content[1:65]
            need(0 not in content[1:65])
            content = content[65:]
        need(not content)

    def huffman(self, content: bytes) -> None:
        while len(content) >= 17:
            need(not content[0] & 0xEE, UNUSUAL)
            counts, code = content[1:17], 0
            symbols = content[17 : 17 + sum(counts)]
            need(sum(counts) <= 256 and len(symbols) == sum(counts))
            need(content[0] > 1 or max(symbols, default=0) <= 15)
            codes, at = {}, 0
            for length, count in enumerate(counts, 1):
                for _ in range(count):
                    codes[length, code] = symbols[at]
                    code, at = code + 1, at + 1
                need(not count or code < 1 << length)
                code <<= 1
            self.codes[content[0]] = codes
            content = content[17 + sum(counts) :]
        need(not content)

    def frame(self, content: bytes) -> None:
        need(not self.channels)
        need(len(content) >= 6 and len(content) == 6 + 3 * content[5])
        need(content[0] == 8, UNUSUAL)
        self.height, self.width = (int.from_bytes(content[at : at + 2]) for at in (1, 3))
        need(self.height > 0 and self.width > 0, UNUSUAL)
        need(content[5] in (1, 3), COLOURS)
        for at in range(6, len(content), 3):
            name, factors, quantiser = content[at : at + 3]
            need(quantiser <= 3)
            need(not self.channels or factors == 0x11, SAMPLING)
            need(content[5] == 1 or name == len(self.channels) + 1, COLOURS)
            self.channels.append(Channel(name, factors >> 4, factors & 15, quantiser))
        first = self.channels[0]
        found = FACTORS.get((first.across, first.down))
        need(found is not None and (len(self.channels) == 3 or found == 1), SAMPLING)
        self.sampling = (found or 0) if len(self.channels) == 3 else 0

    def scan(self, content: bytes, rest: bytes) -> None:
        need(bool(self.channels))
        need(len(content) == 4 + 2 * content[0])
        need(content[0] == len(self.channels), UNUSUAL)
        tables = []
        for at, channel in enumerate(self.channels):
            name, selected = content[1 + 2 * at : 3 + 2 * at]
            need(name == channel.name and not selected & 0xEE, UNUSUAL)
            dc, ac = self.codes.get(selected >> 4), self.codes.get(0x10 | selected & 1)
            steps = self.steps.get(channel.quantiser)
            if dc is None or ac is None or steps is None:
                raise Refused(DAMAGED)
            tables.append((channel, dc, ac, steps))
        need(content[-3:] == b"\0\x3f\0", UNUSUAL)
        need(len(self.channels) == 1 or self.adobe in (-1, 1), COLOURS)
        first = self.channels[0]
        across, down = 8 * first.across, 8 * first.down
        units = -(-self.width // across) * -(-self.height // down)
        bits, before = Bits(rest), [0] * len(tables)
        for unit in range(units):
            if self.interval and unit and unit % self.interval == 0:
                bits.end()
                need(bits.rest[:2] == bytes([0xFF, 0xD0 + (unit // self.interval - 1) % 8]))
                bits, before = Bits(bits.rest[2:]), [0] * len(tables)
            for at, (channel, dc, ac, steps) in enumerate(tables):
                for _ in range(channel.across * channel.down):
                    before[at] = block(bits, dc, ac, steps, before[at])
        bits.end()
        need(bits.rest[:2] == b"\xff\xd9")
        need(len(bits.rest) == 2, UNUSUAL)


def block(bits: Bits, dc: Codes, ac: Codes, steps: bytes, before: int) -> int:
    size = bits.symbol(dc)
    need(size <= 11)
    before += bits.value(size)
    need(abs(before) * steps[0] <= MOST)
    at = 1
    while at < 64:
        both = bits.symbol(ac)
        if both == 0:
            break
        size, at = both & 15, at + (both >> 4)
        need(at <= 63 and size <= 10 and (size > 0 or both == 0xF0))
        need(size > 0 or at < 63)
        need(abs(bits.value(size)) * steps[at] <= MOST)
        at += 1
    return before


def need(is_met: bool, reason: int = DAMAGED) -> None:
    if not is_met:
        raise Refused(reason)


def scan(data: bytes) -> tuple[int, ...]:
    """What the extension returns; of a refused file only the reason."""
    twin = Twin()
    try:
        twin.read(data)
    except Refused as refused:
        return refused.args
    return 0, twin.height, twin.width, twin.sampling, twin.interval, *twin.exif
