"""The package against a real opentapd, in a network namespace of its own."""
import contextlib
import ctypes
import importlib.util
import io
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request
from unittest import mock

import opentap
import opentap.demo

PANDAS = importlib.util.find_spec("pandas") is not None
CLONE_NEWNET = 0x40000000
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("go") and shutil.which("ip")
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
URL = "http://127.0.0.1:2020"
SENT, SIZE = 40, 100  # datagrams and their octets


def system(name, *args):
    if ctypes.CDLL(None, use_errno=True)[name](*args) != 0:
        raise OSError(ctypes.get_errno(), name)


def talk():
    """Sends datagrams over the loopback device to the port of DNS."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as to, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        to.bind(("127.0.0.1", 53))
        for _ in range(SENT):
            s.sendto(bytes(SIZE), ("127.0.0.1", 53))


@unittest.skipUnless(ROOT, "needs root, go and ip (network namespace)")
class Daemon(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        work = tempfile.TemporaryDirectory()
        cls.addClassCleanup(work.cleanup)
        cls.dir = pathlib.Path(work.name)
        env = dict(os.environ, CGO_ENABLED="0")
        subprocess.run(["go", "build", "-o", str(cls.dir / "opentapd"), "./cmd/opentapd"], cwd=str(REPOSITORY), env=env, check=True)
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        cls.addClassCleanup(os.close, before)
        system("unshare", CLONE_NEWNET)
        cls.addClassCleanup(system, "setns", before, CLONE_NEWNET)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        chip = cls.dir / "sys" / "class" / "hwmon" / "hwmon0"
        chip.mkdir(parents=True)
        (chip / "name").write_text("coretemp")
        (chip / "temp1_input").write_text("21500")
        (cls.dir / "opentap.yaml").write_text("points:\n  default: lo\n  aliases: [{point: lo, name: inside}]\nsensors: {sysfs: %s}\n" % (cls.dir / "sys"))
        data = cls.dir / "data"
        cls.start(cls.addClassCleanup, "--data-dir", str(data), ready=lambda: urllib.request.urlopen(URL + "/readyz", timeout=2))
        patch = mock.patch.dict(os.environ, {"OPENTAP_DATA": str(data), "OPENTAP_URL": URL})
        patch.start()
        cls.addClassCleanup(patch.stop)
        os.environ.pop("OPENTAP_TOKEN", None)
        cls.client = opentap.Client()

    @classmethod
    def start(cls, cleanup, *args, ready):
        """Runs an opentapd until it is ready."""
        log = open(cls.dir / "log", "wb")
        cleanup(log.close)
        d = subprocess.Popen([str(cls.dir / "opentapd"), "--config", str(cls.dir / "opentap.yaml"), *args], stdout=log, stderr=log)

        def end():
            d.send_signal(signal.SIGTERM)
            try:
                d.wait(20)
            except subprocess.TimeoutExpired:
                d.kill()
                d.wait()

        cleanup(end)
        deadline = time.monotonic() + 30
        while True:
            try:
                with ready() as answer:
                    if answer.status == 200:
                        return
            except (OSError, opentap.OpenTapError):
                if d.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("opentapd is not ready:\n" + (cls.dir / "log").read_text()[-2000:])
            time.sleep(0.05)

    def test_tls_with_a_certificate_made_by_the_server(self):
        data = self.dir / "tls"
        url = "https://127.0.0.1:2443"
        with mock.patch.dict(os.environ, {"OPENTAP_DATA": str(data)}):
            self.start(self.addCleanup, "--data-dir", str(data), "--listen", "0.0.0.0:2443",
                       ready=lambda: opentap.Client(url, retries=0)._http.open("GET", "/readyz"))
            self.assertTrue(opentap.Client(url).points())
            here = {"name": "t", "ipaddr": "127.0.0.1", "portnum": "2443", "scheme": "https"}
            self.assertIn("inside", opentap.capabilities(here)["network_observation_pts"])
        authority = str(data / "tls" / "ca.pem")
        token = (data / "admin.token").read_text().strip()
        self.assertTrue(opentap.Client(url, token, ca=authority).points())
        with self.assertRaises(opentap.ConnectionFailed) as c:
            opentap.Client(url, token, retries=0).points()
        self.assertIn("OPENTAP_CA", str(c.exception))
        shown = subprocess.run([str(self.dir / "opentapd"), "--show-fingerprint", "--data-dir", str(data)], capture_output=True, text=True, check=True)
        fingerprint = shown.stdout.split()[-1]
        self.assertTrue(opentap.Client(url, token, fingerprint=fingerprint).points())
        with self.assertRaises(opentap.ConnectionFailed) as c:
            opentap.Client(url, token, fingerprint=fingerprint[:-1] + ("A" if fingerprint[-1] != "A" else "B"), retries=0).points()
        self.assertIn("may not be the server", str(c.exception))
        with self.assertRaises(ValueError):
            opentap.Client(url, token, fingerprint=fingerprint, ca=authority)

    def running(self, kind, **more):
        """A capture that is under way."""
        c = self.client.capture(kind, "inside", **more)
        deadline = time.monotonic() + 20
        while c.refresh().state == "scheduled":
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)
        return c

    def test_sensors(self):
        found = self.client.sensors()
        self.assertEqual([(r["value"], r["unit"]) for r in found["readings"]], [(21.5, "Cel")])
        self.assertEqual(found["problems"], [])

    def test_what_there_is(self):
        names = {p["name"]: p for p in self.client.points()}
        self.assertTrue(names["lo"]["default"])
        self.assertEqual(self.client.point("inside")["name"], "lo")
        self.assertIn("netflow", self.client.capabilities()["capture_kinds"])
        self.assertTrue(self.client.nodes()[0]["connected"])
        self.assertTrue(self.client.version())
        self.assertTrue(self.client.check_filter("udp port 53"))

    def test_packets_from_start_to_end(self):
        c = self.running("pcap", filter="udp dst port 53", max_packets=SENT, duration=60)
        talk()
        states = []
        c.wait(lambda c: states.append(c.state), timeout=30, every=0.05)
        self.assertEqual(states[-1], "done")
        got = list(c.retrieve())
        self.assertEqual([(p.orig_len, p.data[-SIZE:]) for p in got], [(14 + 20 + 8 + SIZE, bytes(SIZE))] * SENT)
        self.assertLess(abs(got[0].time_ns / 1e9 - time.time()), 60)
        self.assertEqual(list(c.packets("pcap")), got)
        path = c.retrieve("pcap", self.dir / "x.pcap")
        self.assertEqual(list(opentap.read_packets(path)), got)
        led = c.ledger()
        self.assertEqual((led["captured"], led["seen"]), (SENT, led["captured"] + led["filtered"] + led["dropped_total"]))
        self.assertIn(c.id, [x.id for x in self.client.captures()])
        c.delete()
        with self.assertRaises(opentap.NotFoundError):
            self.client.get(c.id)

    @unittest.skipUnless(PANDAS, "needs pandas")
    def test_flows_as_a_frame(self):
        c = self.running("netflow", filter="udp dst port 53", duration=60)
        talk()
        deadline = time.monotonic() + 20
        while c.ledger()["captured"] < SENT:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)
        df = c.stop().wait(timeout=30).retrieve()
        self.assertEqual((df["packets"].sum(), df["octets"].sum()), (SENT, SENT * (28 + SIZE)))
        self.assertEqual((df["protocol"][0], df["dst_port"][0], str(df["dst_port"].dtype), str(df["first"].dt.tz)), ("UDP", 53, "Int64", "UTC"))
        self.assertTrue(df["icmp_type"].isna().all())
        rows = list(c.rows())
        self.assertEqual(sum(r["packets"] for r in rows), SENT)

    @unittest.skipUnless(PANDAS, "needs pandas")
    def test_counters_and_samples_as_frames(self):
        a = self.client.capture("ethernet", period="100ms", duration="1s")
        b = self.client.capture("temperature", period=0.1, duration=1)
        df = a.wait(timeout=30).frame()
        self.assertEqual((str(df["rx_bytes"].dtype), str(df["up"].dtype)), ("Int64", "boolean"))
        self.assertTrue(df["rx_bytes"].is_monotonic_increasing and len(df) > 5)
        df = b.wait(timeout=30).frame()
        self.assertEqual(df["value"].dropna().unique().tolist(), [21.5])

    def test_live_of_a_real_server(self):
        try:
            stream = self.client.live("inside", filter="udp dst port 53", duration="20s", max_packets=5)
        except opentap.UnsupportedError:
            self.skipTest("this opentapd has no live streams")
        stop = []

        def until():
            while not stop:
                talk()
                time.sleep(0.05)

        import threading
        t = threading.Thread(target=until)
        t.start()
        try:
            with stream:
                got = list(stream)
        finally:
            stop.append(True)
            t.join()
        self.assertEqual([p.orig_len for p in got], [42 + SIZE] * 5)

    def test_mistakes_are_told(self):
        with self.assertRaises(opentap.InvalidError) as e:
            self.client.capture("pcap", duration=1, filter="tcp prot 80")
        self.assertIn("\n      ^", str(e.exception))
        with self.assertRaises(opentap.NotFoundError):
            self.client.capture("pcap", "nowhere", duration=1)
        with self.assertRaises(opentap.UnauthenticatedError):
            opentap.Client(token="wrong").points()
        with self.assertRaises(opentap.NotFoundError):
            self.client.live("nowhere")
        c = self.client.capture("pcap", start=time.time() + 1000, duration=5, id="later")
        self.assertEqual(self.client.capture("pcap", start=c.view["query"]["from"], duration=5, id="later").view["uid"], c.view["uid"])
        with self.assertRaises(opentap.ConflictError):
            self.client.capture("netflow", duration=5, id="later")
        with self.assertRaises(opentap.NotReadyError):
            c.download(self.dir / "later")
        c.delete()

    @unittest.skipUnless(PANDAS, "needs pandas")
    def test_classic_functions_of_a_real_server(self):
        self.assertIn("inside", opentap.capabilities()["network_observation_pts"])
        now = int(time.time())
        with contextlib.redirect_stderr(io.StringIO()):  # the start is past, and moved to now
            flows = opentap.capture("netflow", now, now + 3, observationPt="inside")
            counters = opentap.capture("ethernet", now, now + 3, period=100)
        self.assertEqual(flows, "netflow_inside_%d_%d" % (now, now + 3))
        while time.time() < now + 2:
            talk()
            time.sleep(0.1)
        self.client.get(flows).wait(timeout=20)
        df = opentap.netflowAddApplication(opentap.retrieve("netflow", flows))
        self.assertGreaterEqual(df[df["app"] == "domain"]["dOctets"].sum(), SENT * (28 + SIZE))
        self.client.get(counters).wait(timeout=20)
        df = opentap.retrieve("ethernet", counters)
        self.assertEqual(list(df.columns)[:4], ["time", "state", "rx_bytes", "rx_packets"])
        self.assertEqual(str(df["time"].dt.tz), "UTC")

    @unittest.skipUnless(PANDAS, "needs pandas")
    def test_the_demonstration(self):
        env = dict(os.environ, PYTHONPATH=str(REPOSITORY / "python" / "src"), PYTHONDONTWRITEBYTECODE="1")
        plot = ["--plot", str(self.dir / "apps.png")] if importlib.util.find_spec("matplotlib") else []
        p = subprocess.Popen([sys.executable, "-m", "opentap.demo", "--point", "inside", "--lead", "1", "--duration", "2"] + plot,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env)
        while p.poll() is None:
            talk()
            time.sleep(0.1)
        out = p.stdout.read().decode()
        p.stdout.close()
        self.assertEqual(p.returncode, 0, out)
        self.assertRegex(out, r"domain +\d+")
        if plot:
            self.assertTrue((self.dir / "apps.png").read_bytes().startswith(b"\x89PNG"))


if __name__ == "__main__":
    unittest.main()
