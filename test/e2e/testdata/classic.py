"""A client of the first OpenTap, as such clients were written: it takes what it gets and looks at nothing twice."""
import io, json, sys, time, urllib.error, urllib.request
import pandas as pd

base = sys.argv[1]


def get(path, want):
    with urllib.request.urlopen(base + path, timeout=30) as r:
        assert r.status == 200, r.status
        kind = r.headers["Content-Type"]
        assert kind == want, "Content-Type %r is not %r" % (kind, want)
        return r.read().decode()


def refused(path, status):
    try:
        urllib.request.urlopen(base + path, timeout=30)
    except urllib.error.HTTPError as e:
        assert e.code == status, (path, e.code)
        assert e.headers["Content-Type"] == "application/json", e.headers["Content-Type"]
        body = json.loads(e.read())
        assert body["status"] == "error" and body["msg"], body
        return body["msg"]
    raise AssertionError(path + " was not refused")


caps = json.loads(get("/capabilities", "application/json"))
assert caps == json.loads(get("/", "application/json"))
assert {"ethernet", "netflow", "pcap", "temperature"} <= set(caps["capture_types"]), caps
assert caps["retention"] == "60" and "inside" in caps["network_observation_pts"], caps

now = int(time.time())
assert refused("/capture/netflow?start=%d" % now, 400)
assert refused("/capture/netflow?start=%d&stop=%d" % (now + 9, now + 5), 400)
assert refused("/capture/netflow?start=%d&stop=%d&observationPt=nowhere" % (now, now + 5), 404)
assert refused("/retrieve?id=nobody", 404) == "data file not found; may not be ready yet."
assert refused("/retrieve", 400)

start, stop = now, now + 4
ids = {}
for kind, args in {
    "netflow": "observationPt=inside&id=netflow_net_%d_%d" % (start, stop),
    "ethernet": "OBSERVATIONPT=0&period=100",
    "temperature": "period=100",
}.items():
    path = "/capture/%s?start=%d&stop=%d&%s" % (kind, start, stop, args)
    a = json.loads(get(path, "application/json"))
    assert a["status"] == "success" and a["stopTime"] == stop and a["duration"] > 0, a
    assert not isinstance(a["startTime"], str), a
    ids[kind] = a["id"]
assert ids["netflow"] == "netflow_net_%d_%d" % (start, stop)
again = json.loads(get("/capture/netflow?start=%d&stop=%d&observationpt=inside&id=%s" % (start, stop, ids["netflow"]), "application/json"))
assert again["id"] == ids["netflow"]
assert refused("/capture/netflow?start=%d&stop=%d&observationpt=inside&id=%s" % (start, stop + 1, ids["netflow"]), 409)

print("ready", flush=True)
sys.stdin.readline()
while time.time() < stop + 1:
    time.sleep(0.1)

f = pd.read_csv(io.StringIO(get("/retrieve?id=" + ids["netflow"], "text/csv")))
columns = ["ts", "te", "td", "sa", "da", "sp", "dp", "pr", "ipkt", "ibyt"]
f = f[columns][:-3]  # the summary, unread
f.columns = ["first", "last", "duration", "srcaddr", "dstaddr", "srcport", "dstport", "prot", "dPkts", "dOctets"]
for c in ["duration", "srcport", "dstport", "dPkts", "dOctets"]:
    f[c] = pd.to_numeric(f[c])
assert pd.to_datetime(f["first"]).notna().all()

e = pd.read_csv(io.StringIO(get("/retrieve?ID=" + ids["ethernet"], "text/csv")))
e["time"] = pd.to_datetime(e["time"], unit="ms", utc=True)
s = pd.read_csv(io.StringIO(get("/retrieve?id=" + ids["temperature"], "text/csv")))
s["time"] = pd.to_datetime(s["time"], unit="ms", utc=True)
assert list(s.columns) == ["time", "temperature"] and len(s) > 5, s
print(json.dumps({"flows": len(f), "packets": int(f["dPkts"].sum()), "octets": int(f["dOctets"].sum()),
                  "rx": int(e["rx_packets"].iloc[-1] - e["rx_packets"].iloc[0]), "warm": float(s["temperature"].mean())}))
