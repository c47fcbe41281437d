"""The reader of capture files."""
import io
import random
import shutil
import struct
import subprocess
import tempfile
import unittest

from opentap import FormatError, Packet, PacketReader, read_packets


def block(order, typ, body):
    body += b"\0" * (-len(body) % 4)
    n = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", typ) + n + body + n


def option(order, code, value):
    return struct.pack(order + "HH", code, len(value)) + value + b"\0" * (-len(value) % 4)


def section(order="<"):
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(order="<", resolution=9, offset=None):
    o = option(order, 2, b"eth0") + option(order, 9, bytes([resolution]))
    if offset is not None:
        o += option(order, 14, struct.pack(order + "q", offset))
    return block(order, 1, struct.pack(order + "HHI", 1, 0, 0) + o + option(order, 0, b""))


def packet(order, ticks, data, orig, iface=0):
    return block(order, 6, struct.pack(order + "IIIII", iface, ticks >> 32, ticks & 0xFFFFFFFF, len(data), orig) + data)


class Drip:
    """A stream that gives a few octets at a time."""

    def __init__(self, data, n):
        self.f, self.n = io.BytesIO(data), n

    def read(self, n):
        return self.f.read(min(n, self.n))


class Packets(unittest.TestCase):
    def test_pcap_of_every_order_and_resolution(self):
        for order in "<>":
            for magic, unit in ((0xA1B2C3D4, 1000), (0xA1B23C4D, 1)):
                data = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, 1)
                data += struct.pack(order + "IIII", 1700000000, 123, 3, 60) + b"abc" + struct.pack(order + "IIII", 5, 6, 0, 0)
                want = [Packet(1700000000 * 10**9 + 123 * unit, 60, b"abc"), Packet(5 * 10**9 + 6 * unit, 0, b"")]
                self.assertEqual(list(read_packets(io.BytesIO(data))), want)
                self.assertEqual(list(PacketReader(Drip(data, 1))), want)

    def test_pcapng_of_every_order_and_several_sections(self):
        t = 1700000000123456789
        for order in "<>":
            data = section(order) + interface(order) + packet(order, t, b"hello", 70)
            data += block(order, 5, struct.pack(order + "III", 0, 0, 0) + option(order, 4, struct.pack(order + "Q", 7)) +
                          option(order, 7, struct.pack(order + "Q", 2)))
            data += block(order, 0x0BAD, b"unknown")
            other = "<>"[order == "<"]
            data += section(other) + interface(other, 6, 100) + packet(other, 1500000, b"", 9) + interface(other, 0x80 | 10) + \
                packet(other, 1024 + 512, b"x", 1, 1) + block(other, 3, struct.pack(other + "I", 2) + b"zz")
            r = PacketReader(Drip(data, 7))
            self.assertEqual(next(r), (t, 70, b"hello"))
            self.assertEqual(r.interfaces[0].name, "eth0")
            self.assertEqual(next(r), (101_500_000_000, 9, b""))
            self.assertEqual(list(r), [(1_500_000_000, 1, b"x"), (0, 2, b"zz")])
        r = PacketReader(io.BytesIO(section() + interface() + block("<", 5, struct.pack("<III", 0, 0, 0) + option("<", 4, struct.pack("<Q", 7)))))
        self.assertEqual(list(r), [])
        self.assertEqual(r.stats, {0: {"received": 7}})
        self.assertEqual(r.link, 1)

    def test_broken_files_say_where(self):
        good = section() + interface() + packet("<", 1, b"hello", 5)
        for name, data, has in (
                ("empty", b"", "empty"), ("text", b"no capture", "neither"), ("cut", good[:-3], "ends after"),
                ("header cut", good[:10], "ends after"), ("no interface", section() + packet("<", 1, b"", 0), "not described"),
                ("long", section() + struct.pack("<II", 6, 1 << 30), "says that it has"),
                ("lengths", good[:-4] + b"\x20\0\0\0", "differ"),
                ("short", section() + block("<", 1, b""), "too short"),
                ("pcap long", struct.pack("<IHHiIIIIIII", 0xA1B2C3D4, 2, 4, 0, 0, 0, 1, 1, 1, 1 << 30, 1), "says that it has")):
            with self.subTest(name):
                with self.assertRaises(FormatError) as c:
                    list(PacketReader(io.BytesIO(data)))
                self.assertIn(has, str(c.exception))
                self.assertIn("at offset", str(c.exception))

    def test_random_damage_is_a_format_error_or_nothing(self):
        rnd = random.Random(1)
        good = section() + interface() + b"".join(packet("<", i, bytes(i), i) for i in range(30))
        for _ in range(2000):
            b = bytearray(good)
            for _ in range(rnd.randrange(1, 4)):
                b[rnd.randrange(len(b))] = rnd.randrange(256)
            try:
                for p in PacketReader(io.BytesIO(bytes(b[:rnd.randrange(len(b))]))):
                    self.assertLess(len(p.data), len(good))
            except FormatError:
                pass

    @unittest.skipUnless(shutil.which("tcpdump"), "needs the program tcpdump")
    def test_tcpdump_reads_the_same(self):
        with tempfile.NamedTemporaryFile(suffix=".pcapng") as f:
            frame = bytes(12) + b"\x08\x00" + bytes.fromhex("45000014000000004011000001020304") + b"\x05\x06\x07\x08"
            f.write(section() + interface() + b"".join(packet("<", i * 10**9 + i, frame, 60 + i) for i in range(5)))
            f.flush()
            out = subprocess.run(["tcpdump", "-r", f.name, "-nn", "-tt", "--nano"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                 check=True).stdout.decode()
            times = ["%d.%09d" % divmod(p.time_ns, 10**9) for p in read_packets(f.name)]
        self.assertEqual([line.split()[0] for line in out.splitlines()], times)


if __name__ == "__main__":
    unittest.main()
