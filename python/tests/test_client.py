"""What the client does with answers, good and bad, of a small server."""
import builtins
import http.server
import json
import os
import pathlib
import shutil
import struct
import subprocess
import tempfile
import threading
import unittest
from datetime import datetime, timedelta, timezone
from unittest import mock

import opentap
from opentap import client as client_module

DATA = bytes(range(256)) * 4096  # 1 MiB


def view(state="done", kind="pcap", **more):
    formats = ["pcapng", "pcap"] if kind == "pcap" else ["csv", "classic", "ndjson", "parquet"]
    return {"id": "a/b", "uid": "u1", "kind": kind, "formats": formats, "status": {"state": state, **more}}


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do(self):
        n = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(n)
        self.server.seen.append((self.command, self.path, dict(self.headers), body))
        self.close_connection = True
        self.server.answer(self)

    do_GET = do_POST = do_DELETE = do_PATCH = do

    def send(self, status, body=b"", media="application/json", **headers):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", media)
        self.send_header("Content-Length", str(len(body)))
        for k, v in headers.items():
            self.send_header(k.replace("_", "-"), v)
        self.end_headers()
        self.wfile.write(body)

    def error(self, status, kind, message="m", headers={}, **more):
        self.send(status, {"error": {"kind": kind, "message": message, "request_id": "r1", **more}}, **headers)


class Base(unittest.TestCase):
    def setUp(self):
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.seen = []
        t = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        t.start()

        def end():
            self.server.shutdown()
            self.server.server_close()
            t.join()

        self.addCleanup(end)
        d = tempfile.TemporaryDirectory()
        self.addCleanup(d.cleanup)
        self.dir = pathlib.Path(d.name)
        env = mock.patch.dict(os.environ, {"OPENTAP_DATA": d.name})
        env.start()
        self.addCleanup(env.stop)
        for k in ("OPENTAP_URL", "OPENTAP_TOKEN"):
            os.environ.pop(k, None)
        self.url = "http://127.0.0.1:%d" % self.server.server_address[1]
        self.location = {"name": "t", "ipaddr": "127.0.0.1", "portnum": str(self.server.server_address[1]), "token": "tok"}

    def client(self, **more):
        more.setdefault("patience", 5)
        return opentap.Client(self.url, "tok", **more)

    def answers(self, *fns):
        """Answers one request with each; the last answers all further ones."""
        left = list(fns)
        self.server.answer = lambda h: (left.pop(0) if len(left) > 1 else left[0])(h)

    def capture(self, kind="pcap", **more):
        return opentap.Capture(self.client(**more), view(kind=kind))


class Errors(Base):
    def test_each_kind_is_an_exception_of_its_own(self):
        for status, kind, cls in ((400, "invalid", opentap.InvalidError), (401, "unauthenticated", opentap.UnauthenticatedError),
                                  (403, "forbidden", opentap.ForbiddenError), (404, "not_found", opentap.NotFoundError),
                                  (409, "conflict", opentap.ConflictError), (409, "not_ready", opentap.NotReadyError),
                                  (507, "exhausted", opentap.ExhaustedError), (501, "unsupported", opentap.UnsupportedError),
                                  (503, "unavailable", opentap.UnavailableError), (500, "internal", opentap.InternalError)):
            self.answers(lambda h: h.error(status, kind, hint="do this", field="f"))
            with self.assertRaises(cls) as c:
                self.client().points()
            e = c.exception
            self.assertEqual((e.kind, e.status, e.hint, e.field, e.request_id, str(e)), (kind, status, "do this", "f", "r1", "f: m; do this"))
            self.assertIsInstance(e, opentap.OpenTapError)

    def test_errors_of_others_are_understood_by_status(self):
        self.answers(lambda h: h.send(403, b"<html>proxy", "text/html"))
        with self.assertRaises(opentap.ForbiddenError):
            self.client().points()
        self.answers(lambda h: h.send(200, b"<html>", "text/html"))
        with self.assertRaises(opentap.UnavailableError):
            self.client().points()

    def test_a_wrong_filter_is_marked(self):
        self.answers(lambda h: h.error(400, "invalid", "did not expect it", field="filter", position=5, hint="did you mean port?"))
        with self.assertRaises(opentap.InvalidError) as c:
            self.client().capture("pcap", filter="tcp prot 80")
        self.assertEqual(str(c.exception), "filter: did not expect it\n  tcp prot 80\n      ^\n  did you mean port?")

    def test_not_now_is_obeyed(self):
        self.answers(lambda h: h.error(429, "exhausted", headers={"Retry_After": "0"}), lambda h: h.send(200, view("stopped")))
        self.assertEqual(self.capture().stop().state, "stopped")
        self.assertEqual(len(self.server.seen), 2)
        self.answers(lambda h: h.error(503, "unavailable", headers={"Retry_After": "3600"}))
        with self.assertRaises(opentap.UnavailableError) as c:
            self.client().points()
        self.assertEqual((c.exception.retry_after, len(self.server.seen)), (3600, 3))

    def test_a_lost_connection_is_tried_again_where_that_is_safe(self):
        def hang_up(h):
            h.connection.close()

        self.answers(hang_up, lambda h: h.send(200, {"points": []}))
        self.assertEqual(self.client().points(), [])
        self.answers(hang_up, lambda h: h.send(201, view()))
        self.client().capture("pcap")
        a, b = [json.loads(s[3]) for s in self.server.seen[-2:]]
        self.assertEqual(a, b)
        self.answers(hang_up, lambda h: h.send(200, view()))
        with self.assertRaises(opentap.ConnectionFailed):
            self.capture().stop()

    def test_nobody_there(self):
        with self.assertRaises(opentap.ConnectionFailed) as c:
            opentap.Client("http://127.0.0.1:1", retries=0).points()
        self.assertIn("is opentapd running", str(c.exception))

    def test_a_dead_server_ends_the_wait(self):
        done = threading.Event()
        self.addCleanup(done.set)
        self.answers(lambda h: done.wait(5))
        with self.assertRaises(opentap.ConnectionFailed):
            self.client(timeout=0.1, retries=0).points()

    def test_urls_are_checked(self):
        for url in ("ftp://x", "http://", "http://u:p@h", "http://h/?q"):
            with self.assertRaises(ValueError):
                opentap.Client(url)
        self.assertEqual(opentap.Client("[::1]:5").url, "http://[::1]:5")


class Requests(Base):
    def test_the_request_says_what_was_asked(self):
        self.answers(lambda h: h.send(201, view("scheduled")))
        t = datetime(2030, 1, 2, 3, 4, 5, 600000, timezone(timedelta(hours=1)))
        c = self.client().capture("pcap", "eth0", start=t, duration=timedelta(milliseconds=1500), filter="tcp", strict=True, snap=64,
                                  max_packets=5, retain="2h", id="x")
        method, path, headers, body = self.server.seen[0]
        self.assertEqual((method, path, headers["Authorization"]), ("POST", "/v1/captures", "Bearer tok"))
        self.assertEqual(json.loads(body), {"kind": "pcap", "id": "x", "points": ["eth0"], "from": "2030-01-02T02:04:05.600000Z", "duration": "1.5s",
                                            "filter": "tcp", "strict": True, "snap": 64, "limits": {"packets": 5}, "retain": "2h"})
        self.assertFalse(c.final)
        with self.assertRaises(ValueError):
            self.client().capture("pcap", start=datetime(2030, 1, 1))

    def test_ids_are_one_segment(self):
        self.answers(lambda h: h.send(200, view()))
        self.client().get("a/b ü")
        self.client().get("..")
        self.assertEqual([s[1] for s in self.server.seen], ["/v1/captures/a%2Fb%20%C3%BC", "/v1/captures/%2E%2E"])

    def test_the_local_token_stays_local(self):
        (self.dir / "admin.token").write_text("secret\n")
        self.assertEqual(opentap.Client("http://localhost:1")._http.token, "secret")
        self.assertFalse(opentap.Client("http://192.0.2.1:1")._http.token)
        os.environ["OPENTAP_TOKEN"] = "env"
        self.assertEqual(opentap.Client("http://192.0.2.1:1")._http.token, "env")

    def test_wait_shows_progress_and_tells_failure(self):
        self.answers(lambda h: h.send(200, view("scheduled")), lambda h: h.send(200, view("running")), lambda h: h.send(200, view("done")))
        states = []
        self.capture().wait(lambda c: states.append(c.state), every=0.01)
        self.assertEqual(states, ["scheduled", "running", "done"])
        self.answers(lambda h: h.send(200, view("failed", reason="the device is gone")))
        with self.assertRaises(opentap.CaptureFailed) as c:
            self.capture().wait()
        self.assertIn("the device is gone", str(c.exception))
        self.answers(lambda h: h.send(200, view("running")))
        with self.assertRaises(TimeoutError):
            self.capture().wait(timeout=0.05, every=0.01)


class Downloads(Base):
    def ranges(self, cut=None, etag="e1", data=DATA):
        """A server that obeys ranges, and hangs up after cut octets of each answer."""

        def answer(h):
            at, r = 0, h.headers.get("Range")
            if r and h.headers.get("If-Range") == '"%s"' % etag:
                at = int(r[len("bytes="):-1])
            if at >= len(data) and r:
                h.send(416, b"", Content_Range="bytes */%d" % len(data))
                return
            part = data[at:]
            h.send_response(206 if at else 200)
            h.send_header("Content-Length", str(len(part)))
            h.send_header("ETag", '"%s"' % etag)
            if at:
                h.send_header("Content-Range", "bytes %d-%d/%d" % (at, len(data) - 1, len(data)))
            h.end_headers()
            h.wfile.write(part[:cut] if cut else part)

        return answer

    def test_a_broken_download_goes_on(self):
        self.answers(self.ranges(cut=300_000))
        seen = []
        path = self.capture().download(self.dir / "x.pcapng", progress=seen.append)
        self.assertEqual(path.read_bytes(), DATA)
        self.assertEqual([s[2].get("Range") for s in self.server.seen], [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"])
        self.assertEqual(seen[-1], (len(DATA), len(DATA)))
        self.assertEqual([p.name for p in self.dir.iterdir()], ["x.pcapng"])

    def test_a_later_run_goes_on(self):
        def never(h):
            h.error(500, "internal")

        self.answers(self.ranges(cut=300_000), never)
        with self.assertRaises(opentap.InternalError):
            self.capture().download(self.dir / "x")
        self.assertFalse((self.dir / "x").exists())
        self.answers(self.ranges())
        self.capture().download(self.dir / "x")
        self.assertEqual((self.dir / "x").read_bytes(), DATA)
        self.assertEqual(self.server.seen[-1][2]["Range"], "bytes=300000-")

    def test_a_new_snapshot_begins_anew(self):
        new = b"new" * 1000
        self.answers(self.ranges(cut=300_000), self.ranges(etag="e2", data=new))
        self.assertEqual(self.capture().download(self.dir / "x").read_bytes(), new)

    def test_all_was_there_already(self):
        (self.dir / "x.part").write_bytes(DATA)
        (self.dir / "x.part.json").write_text(json.dumps({"uid": "u1", "format": "pcapng", "etag": "e1", "offset": len(DATA)}))
        self.answers(self.ranges())
        self.assertEqual(self.capture().download(self.dir / "x").read_bytes(), DATA)

    def test_a_part_of_another_capture_is_not_mixed_in(self):
        (self.dir / "x.part").write_bytes(b"z" * 3_000_000)
        (self.dir / "x.part.json").write_text(json.dumps({"uid": "other", "format": "pcapng", "etag": "e1", "offset": 100}))
        self.answers(self.ranges())
        self.assertEqual(self.capture().download(self.dir / "x").read_bytes(), DATA)

    def test_a_download_without_progress_ends(self):
        def nothing(h):
            h.send_response(200)
            h.send_header("Content-Length", "10")
            h.send_header("ETag", '"e1"')
            h.end_headers()

        self.answers(nothing)
        with self.assertRaises(opentap.ConnectionFailed):
            self.capture().download(self.dir / "x")

    def test_packets_go_on_over_a_broken_connection(self):
        data = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
        data += b"".join(struct.pack("<IIII", i, 0, 100, 100) + bytes([i % 256]) * 100 for i in range(5000))
        self.answers(self.ranges(cut=99_999, data=data))
        got = list(self.capture().packets("pcap"))
        self.assertEqual((len(got), got[4999]), (5000, (4999 * 10**9, 100, bytes([4999 % 256]) * 100)))
        self.answers(self.ranges(cut=99_999, data=data), self.ranges(etag="e2"))
        with self.assertRaises(opentap.ConflictError):
            list(self.capture().packets())

    def test_not_ready_is_told(self):
        self.answers(lambda h: h.error(409, "not_ready", headers={"Retry_After": "1"}))
        with self.assertRaises(opentap.NotReadyError) as c:
            self.capture().download(self.dir / "x")
        self.assertEqual(c.exception.retry_after, 1)
        self.assertEqual(list(self.dir.glob("x")), [])

    def test_rows_need_no_pandas_and_frames_say_so(self):
        self.answers(lambda h: h.send(200, b'{"a":1}\n{"a":2}\n', "application/x-ndjson"))
        self.assertEqual(list(self.capture("netflow").rows()), [{"a": 1}, {"a": 2}])
        real = builtins.__import__

        def without(name, *args, **kw):
            if name == "pandas":
                raise ImportError("no pandas")
            return real(name, *args, **kw)

        n = len(self.server.seen)
        with mock.patch.object(builtins, "__import__", without):
            for call in (self.capture("netflow").frame, lambda: opentap.retrieve("netflow", "x", self.location)):
                with self.assertRaises(ImportError) as c:
                    call()
                self.assertIn("apt install python3-pandas", str(c.exception))
        self.assertEqual(len(self.server.seen), n)

    def test_kinds_are_not_mixed_up(self):
        for call in (self.capture("pcap").frame, lambda: list(self.capture("pcap").rows()), lambda: list(self.capture("netflow").packets())):
            with self.assertRaises(TypeError):
                call()


class Live(Base):
    HEAD = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 1)

    def chunked(self, *parts, end=True, gate=None):
        def answer(h):
            h.send_response(200)
            h.send_header("Transfer-Encoding", "chunked")
            h.end_headers()
            for p in parts:
                h.wfile.write(b"%x\r\n%s\r\n" % (len(p), p))
                h.wfile.flush()
            if gate is not None:
                gate.wait(10)
            if end:
                h.wfile.write(b"0\r\n\r\n")

        return answer

    @staticmethod
    def one(i):
        return struct.pack("<IIII", 0, i, 2, 2) + b"ab"

    def test_live_gives_packets_at_once_and_can_be_closed(self):
        gate = threading.Event()
        self.addCleanup(gate.set)
        self.answers(self.chunked(self.HEAD + self.one(1), self.one(2), gate=gate))
        with self.client().live(["a", "b"], filter="tcp", past="5s", max_packets=9) as s:
            self.assertEqual([next(s).time_ns, next(s).time_ns], [1, 2])  # before the server ends
            threading.Timer(0.1, s.close).start()
            self.assertEqual(list(s), [])
        self.assertEqual(self.server.seen[0][1], "/v1/live?point=a&point=b&filter=tcp&past=5s&packets=9")

    def test_a_stream_that_is_cut_off_is_told(self):
        self.answers(self.chunked(self.HEAD + self.one(1), end=False))
        s = self.client().live()
        self.assertEqual(next(s).time_ns, 1)
        with self.assertRaises(opentap.ConnectionFailed):
            next(s)
        s.close()

    def test_a_server_without_live_streams_is_told_from_a_missing_point(self):
        for paths, cls in (({}, opentap.UnsupportedError), ({"/v1/live": {}}, opentap.NotFoundError)):
            self.answers(lambda h: h.send(200, {"paths": paths}) if h.path == "/openapi.json" else h.error(404, "not_found"))
            with self.assertRaises(cls):
                self.client().live()


class TheTaps(Base):
    def test_each_verb_is_a_request(self):
        self.answers(lambda h: h.send(200, {"services": [{"name": "a/b"}], "name": "x"}))
        c = self.client()
        self.assertEqual(c.tap_services.list(), [{"name": "a/b"}])
        c.tap_flows.create(name="f", service="a/b", port="p", direction="IN")
        c.tap_flows.show("a/b")
        c.tap_mirrors.update("m", description="d")
        c.tap_flows.delete("f")
        c.tap_flows.estimate(service="a/b")
        c.tap_flows.test("f")
        c.taps()
        self.assertEqual([s[:2] for s in self.server.seen], [
            ("GET", "/v1/taps/services?limit=5000"), ("POST", "/v1/taps/flows"), ("GET", "/v1/taps/flows/a%2Fb"), ("PATCH", "/v1/taps/mirrors/m"),
            ("DELETE", "/v1/taps/flows/f"), ("POST", "/v1/taps/flows/estimate"), ("POST", "/v1/taps/flows/f/test"), ("GET", "/v1/taps")])

    def test_a_list_is_whole_however_many_pages_it_has(self):
        pages = {"": {"flows": [{"name": "a"}, {"name": "b"}], "next": "x"}, "&page_token=x": {"flows": [{"name": "c"}]}}
        self.answers(lambda h: h.send(200, pages[h.path.partition("limit=5000")[2]]))
        self.assertEqual([f["name"] for f in self.client().tap_flows.list()], ["a", "b", "c"])


class Types(unittest.TestCase):
    def test_the_types_are_right(self):
        mypy = shutil.which("mypy")
        if not mypy:
            self.skipTest("needs the program mypy")
        done = subprocess.run([mypy, "--strict", "--ignore-missing-imports", "--cache-dir", os.devnull, "src/opentap"],
                              cwd=pathlib.Path(__file__).parents[1], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


class Spans(unittest.TestCase):
    def test_durations_and_moments(self):
        self.assertEqual([client_module._span(v) for v in (1, 0.5, "3m", timedelta(hours=1), 10)], ["1s", "0.5s", "3m", "3600s", "10s"])
        self.assertEqual(client_module._moment(1700000000), "2023-11-14T22:13:20Z")
        self.assertEqual(client_module._moment("2023-11-14T22:13:20Z"), "2023-11-14T22:13:20Z")


if __name__ == "__main__":
    unittest.main()
