"""The functions of the first OpenTap."""
import contextlib
import inspect
import io
import importlib.util
import unittest
import urllib.parse

import opentap
from test_client import Base

PANDAS = importlib.util.find_spec("pandas") is not None

HEADER = ("ts,te,td,sa,da,sp,dp,pr,flg,fwd,stos,ipkt,ibyt,opkt,obyt,in,out,sas,das,smk,dmk,dtos,dir,nh,nhb,svln,dvln,"
          "ismc,odmc,idmc,osmc,mpls1,mpls2,mpls3,mpls4,mpls5,mpls6,mpls7,mpls8,mpls9,mpls10,cl,sl,al,ra,eng,exid,tr")


def flow(sp, dp, pr, octets):
    return "2023-11-14 22:13:20,2023-11-14 22:13:21,1.250,10.0.0.1,10.0.0.2,%s,%s,%s,......,0,0,3,%d" % (sp, dp, pr, octets) + ",0" * 35


NETFLOW = "\n".join([HEADER, flow(50000, 443, "TCP", 300), flow(53, 40000, "UDP", 200), flow(0, "8.0", "ICMP", 84), flow(50000, 50001, "TCP", 1),
                     "Summary", "flows,bytes,packets,avg_bps,avg_pps,avg_bpp", "4,585,12,1,1,1", ""]).encode()


class Classic(Base):
    def quiet(self, fn, *args):
        self.said = io.StringIO()
        with contextlib.redirect_stderr(self.said):
            return fn(*args)

    def test_the_signatures_are_the_old_ones(self):
        self.assertEqual(list(inspect.signature(opentap.capture).parameters),
                         ["datatype", "startTime", "stopTime", "captureID", "observationPt", "period", "location"])
        self.assertEqual(list(inspect.signature(opentap.retrieve).parameters), ["capturetype", "captureID", "location"])
        self.assertEqual(list(inspect.signature(opentap.capabilities).parameters), ["location"])

    def test_classic_capture_gives_the_id(self):
        self.answers(lambda h: h.send(200, {"status": "success", "msg": "", "id": "given"}))
        self.assertEqual(opentap.capture("netflow", 1700000010, 1700000070, location=self.location), "given")
        method, path, headers, _ = self.server.seen[0]
        self.assertEqual(urllib.parse.parse_qs(path.partition("?")[2]),
                         {"start": ["1700000010"], "stop": ["1700000070"], "id": ["netflow_net_1700000010_1700000070"]})
        self.assertEqual((method, headers["Authorization"]), ("GET", "Bearer tok"))
        opentap.capture("ethernet", 1700000010.5, 1700000070, "mine", "eth0", 500, self.location)
        self.assertIn("start=1700000010.5&stop=1700000070&id=mine&observationPt=eth0&period=500", self.server.seen[1][1])

    def test_classic_capture_prints_what_was_refused(self):
        self.answers(lambda h: h.send(400, {"status": "error", "msg": "start time must be earlier"}))
        self.assertIsNone(self.quiet(opentap.capture, "netflow", 2, 1, "x", "", None, self.location))
        self.assertIn("start time must be earlier", self.said.getvalue())

    def test_an_automatic_id_that_is_taken_is_given_up(self):
        self.answers(lambda h: h.send(409, {"status": "error", "msg": "taken"}), lambda h: h.send(200, {"status": "success", "msg": "", "id": "new"}))
        self.assertEqual(opentap.capture("netflow", 1, 2, location=self.location), "new")
        self.assertNotIn("id=", self.server.seen[1][1])

    def test_classic_capabilities(self):
        self.answers(lambda h: h.send(200, {"capture_types": ["netflow"], "retention": "60"}))
        self.assertEqual(opentap.capabilities(self.location)["retention"], "60")
        self.answers(lambda h: h.send(401, {"status": "error", "msg": "no token"}))
        with self.assertRaises(opentap.OpenTapError):
            opentap.capabilities(self.location)

    def test_application_lookup(self):
        for (port, prot), app in {(443, "TCP"): "https", (53, 17): "domain", (53, "udp"): "domain", (4739, "UDP"): "ipfix",
                                  (65000, 6): "unknown", (80, "ICMP"): "unknown", (1, "nonsense"): "unknown"}.items():
            self.assertEqual(opentap.appLookup(port, prot), app)

    def test_protocol_names(self):
        self.assertEqual([opentap.netflowConvertProtoStr2Num(v) for v in ("TCP", "udp", "ICMP6", "99", 6)], [6, 17, 58, 99, 6])
        self.assertEqual([opentap.netflowConvertProtoNum2Str(v) for v in (6, 17, 58, 200, "TCP")], ["TCP", "UDP", "ICMP6", "200", "TCP"])
        for n in range(256):
            if n not in (38, 111):  # nfdump has these names twice or not of its own
                self.assertIn(opentap.protocol_number(opentap.protocol_name(n)), (n, 35))

    @unittest.skipUnless(PANDAS, "needs pandas")
    def test_classic_frames_of_flows(self):
        self.answers(lambda h: h.send(200, NETFLOW, "text/csv"))
        df = opentap.retrieve("netflow", "x", self.location)
        self.assertEqual(list(df.columns), ["first", "last", "duration", "srcaddr", "dstaddr", "srcport", "dstport", "prot", "dPkts", "dOctets"])
        self.assertEqual((len(df), df["duration"][0], df["dstport"][2], df["dOctets"].sum()), (4, 1250, 8.0, 585))
        self.assertEqual((str(df["first"].dt.tz), df["first"][0].isoformat()), ("UTC", "2023-11-14T22:13:20+00:00"))
        opentap.netflowAddApplication(df)
        self.assertEqual(list(df["app"]), ["https", "domain", "icmp", "unknown"])
        self.assertEqual(list(opentap.netflowConvertProtoStr2Num(df)["prot"]), [6, 17, 1, 6])
        self.assertEqual(list(opentap.netflowAddApplication(df)["app"]), ["https", "domain", "icmp", "unknown"])
        self.assertEqual(list(opentap.netflowConvertProtoNum2Str(df)["prot"]), ["TCP", "UDP", "ICMP", "TCP"])

    @unittest.skipUnless(PANDAS, "needs pandas")
    def test_classic_frames_of_samples(self):
        self.answers(lambda h: h.send(200, b"time,temperature\n1700000000123,21.5\n1700000001123,21.75\n", "text/csv"))
        df = opentap.retrieve("temperature", "x", self.location)
        self.assertEqual((df["time"][0].isoformat(), df["temperature"][1]), ("2023-11-14T22:13:20.123000+00:00", 21.75))

    @unittest.skipUnless(PANDAS, "needs pandas")
    def test_classic_frames_are_empty_on_error(self):
        for name, answer in {
            "unknown": lambda h: h.send(404, {"status": "error", "msg": "data file not found; may not be ready yet."}),
            "json": lambda h: h.send(200, {"status": "error", "msg": "x"}),
            "nothing": lambda h: h.send(200, b"\n", "text/csv"),
            "charset": lambda h: h.send(200, NETFLOW, "text/csv; charset=utf-8"),
            "html": lambda h: h.send(502, b"<html>", "text/html"),
            "no flows": lambda h: h.send(200, (HEADER + "\nSummary\na\n0\n").encode(), "text/csv"),
        }.items():
            with self.subTest(name):
                self.answers(answer)
                self.assertTrue(self.quiet(opentap.retrieve, "netflow", "x", self.location).empty)
        nobody = dict(self.location, portnum="1")
        self.assertTrue(self.quiet(opentap.retrieve, "netflow", "x", nobody).empty)
        self.assertIn("cannot be reached", self.said.getvalue())


if __name__ == "__main__":
    unittest.main()
