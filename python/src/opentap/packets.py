"""Reads packets from capture files: pcap (µs and ns) and pcapng, either byte order. No library is needed.

Formats: draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng. Memory is bounded by the longest block that is accepted.
"""

from __future__ import annotations

import os
import struct
from typing import Any, BinaryIO, Dict, Iterator, List, NamedTuple, Optional, Union

from .errors import FormatError

__all__ = ["Packet", "Interface", "PacketReader", "read_packets"]

MAX_BLOCK = 16 << 20  # octets; longer blocks are refused
_CHUNK = 256 << 10


class Packet(NamedTuple):
    """One packet: when (nanoseconds since 1970, UTC), how long it was on the wire, and the octets that were kept."""

    time_ns: int
    orig_len: int
    data: bytes


class Interface(NamedTuple):
    """Where packets of a pcapng section were captured. link is the LINKTYPE: 1 = Ethernet."""

    link: int
    snap: int
    name: str


class _IfTime(NamedTuple):
    per_second: int
    offset: int  # seconds


class PacketReader:
    """Iterates over the packets of a stream. Blocks and options that it does not know are passed over.

    link is the link type (of pcapng: of the first interface), interfaces those met so far, stats the newest accounts
    (statistics block) of each interface: received, dropped_by_interface, accepted, dropped_by_os, delivered.
    A stream that ends in the middle of a packet is a FormatError.
    """

    def __init__(self, stream: Any) -> None:
        self._read = getattr(stream, "read1", None) or stream.read  # read1 gives what is there: live streams must not wait
        self._buf = bytearray()
        self._at = 0  # of what comes next in _buf
        self._offset = 0  # of what comes next in the stream
        self.interfaces: List[Interface] = []
        self.stats: Dict[int, Dict[str, int]] = {}
        self._times: List[_IfTime] = []
        self._order = "<"
        self._nanos = False
        self._ng = False
        head = self._take(4, "the file header")
        if head is None:
            raise FormatError("the file is empty", 0)
        if head == b"\x0a\x0d\x0d\x0a":
            self._ng = True
            self._section()
            return
        for order in "<>":
            magic = struct.unpack(order + "I", head)[0]
            if magic in (0xA1B2C3D4, 0xA1B23C4D):
                self._order, self._nanos = order, magic == 0xA1B23C4D
                rest = self._need(20, "the file header")
                snap, link = struct.unpack(order + "II", rest[12:])
                self.interfaces.append(Interface(link & 0xFFFF, snap, ""))
                return
        raise FormatError("this is neither pcap nor pcapng", 0)

    @property
    def link(self) -> int:
        return self.interfaces[0].link if self.interfaces else 1

    def __iter__(self) -> Iterator[Packet]:
        return self

    def __next__(self) -> Packet:
        p = self._next_block() if self._ng else self._next_record()
        if p is None:
            raise StopIteration
        return p

    # --- the stream ---

    def _take(self, n: int, what: str) -> Optional[bytes]:
        """The next n octets, None at the clean end."""
        while len(self._buf) - self._at < n:
            more = self._read(_CHUNK)
            if not more:
                have = len(self._buf) - self._at
                if have == 0:
                    return None
                raise FormatError("the file ends after %d of %d octets of %s" % (have, n, what), self._offset)
            if self._at:
                del self._buf[:self._at]
                self._at = 0
            self._buf += more
        b = bytes(memoryview(self._buf)[self._at:self._at + n])
        self._at += n
        self._offset += n
        return b

    def _need(self, n: int, what: str) -> bytes:
        b = self._take(n, what)
        if b is None:
            raise FormatError("the file ends before %s" % what, self._offset)
        return b

    # --- pcap ---

    def _next_record(self) -> Optional[Packet]:
        h = self._take(16, "a packet header")
        if h is None:
            return None
        sec, frac, kept, orig = struct.unpack(self._order + "IIII", h)
        if kept > MAX_BLOCK:
            raise FormatError("a packet says that it has %d octets" % kept, self._offset - 16)
        data = self._need(kept, "a packet") if kept else b""
        return Packet(sec * 1_000_000_000 + (frac if self._nanos else frac * 1000), orig, data)

    # --- pcapng ---

    def _section(self) -> None:
        """A section header block, whose type has been read."""
        start = self._offset - 4
        b = self._need(8, "a section header")
        for order in "<>":
            if struct.unpack(order + "I", b[4:])[0] == 0x1A2B3C4D:
                self._order = order
                break
        else:
            raise FormatError("a section header has no byte-order magic", start)
        length = struct.unpack(self._order + "I", b[:4])[0]
        if length < 28 or length % 4 or length > MAX_BLOCK:
            raise FormatError("a section header says that it has %d octets" % length, start)
        body = self._need(length - 12, "a section header")
        if struct.unpack(self._order + "I", body[-4:])[0] != length:
            raise FormatError("the two lengths of a section header differ", start)
        self.interfaces, self._times, self.stats = [], [], {}

    def _next_block(self) -> Optional[Packet]:
        while True:
            h = self._take(4, "a block header")
            if h is None:
                return None
            if h == b"\x0a\x0d\x0d\x0a":
                self._section()
                continue
            start = self._offset - 4
            typ = struct.unpack(self._order + "I", h)[0]
            length = struct.unpack(self._order + "I", self._need(4, "a block header"))[0]
            if length < 12 or length % 4 or length > MAX_BLOCK:
                raise FormatError("a block says that it has %d octets" % length, start)
            b = self._need(length - 8, "a block")
            if struct.unpack(self._order + "I", b[-4:])[0] != length:
                raise FormatError("the two lengths of a block differ", start)
            b = b[:-4]
            try:
                if typ == 6:
                    return self._enhanced(b, start)
                if typ == 3:
                    return self._simple(b, start)
                if typ == 1:
                    self._interface(b)
                elif typ == 5:
                    self._statistics(b)
            except struct.error:
                raise FormatError("a block of type %d is too short" % typ, start) from None

    def _enhanced(self, b: bytes, start: int) -> Packet:
        iface, high, low, kept, orig = struct.unpack_from(self._order + "IIIII", b)
        if iface >= len(self._times):
            raise FormatError("a packet is of interface %d, which was not described" % iface, start)
        if kept > len(b) - 20:
            raise FormatError("a packet says that it has %d octets" % kept, start)
        t = self._times[iface]
        ticks = high << 32 | low
        ns = ticks if t.per_second == 1_000_000_000 else ticks * 1_000_000_000 // t.per_second
        return Packet(ns + t.offset * 1_000_000_000, orig, b[20:20 + kept])

    def _simple(self, b: bytes, start: int) -> Packet:
        if not self.interfaces:
            raise FormatError("a packet comes before its interface", start)
        orig = struct.unpack_from(self._order + "I", b)[0]
        kept = min(orig, len(b) - 4, self.interfaces[0].snap or orig)
        return Packet(0, orig, b[4:4 + kept])

    def _options(self, b: bytes) -> Iterator[Any]:
        at = 0
        while at + 4 <= len(b):
            code, n = struct.unpack_from(self._order + "HH", b, at)
            if code == 0 or at + 4 + n > len(b):
                return
            yield code, b[at + 4:at + 4 + n]
            at += 4 + n + -n % 4

    def _interface(self, b: bytes) -> None:
        link, _, snap = struct.unpack_from(self._order + "HHI", b)
        name, per_second, offset = "", 1_000_000, 0
        for code, v in self._options(b[8:]):
            if code == 2:
                name = v.decode(errors="replace")
            elif code == 9 and v:
                per_second = 1 << (v[0] & 0x7F) if v[0] & 0x80 else 10 ** v[0]
            elif code == 14 and len(v) == 8:
                offset = struct.unpack(self._order + "q", v)[0]
        self.interfaces.append(Interface(link, snap, name))
        self._times.append(_IfTime(per_second, offset))

    _STATS = {4: "received", 5: "dropped_by_interface", 6: "accepted", 7: "dropped_by_os", 8: "delivered"}

    def _statistics(self, b: bytes) -> None:
        iface = struct.unpack_from(self._order + "III", b)[0]
        got = {self._STATS[code]: struct.unpack(self._order + "Q", v)[0]
               for code, v in self._options(b[12:]) if code in self._STATS and len(v) == 8}
        if iface < len(self.interfaces):
            self.stats[iface] = got


def read_packets(file: "Union[str, os.PathLike[str], BinaryIO]") -> Iterator[Packet]:
    """Yields the packets of a capture file, by name or open."""
    if isinstance(file, (str, os.PathLike)):
        with open(file, "rb") as f:
            yield from PacketReader(f)
    else:
        yield from PacketReader(file)
