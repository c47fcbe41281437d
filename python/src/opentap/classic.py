"""The functions of the first OpenTap's Python module, under their old names.

A location says where a server is: {'name': 'local', 'ipaddr': '127.0.0.1', 'portnum': '2020'}. It may also have 'token',
'scheme' ('https') and 'ca'. Without 'token' that of a server on this machine is used where it can be read, or OPENTAP_TOKEN when
OPENTAP_URL names this server.

Times are Unix seconds; datetime objects are taken too, those without a time zone as UTC.
"""

from __future__ import annotations

import io
import json
import os
import sys
import urllib.parse
from datetime import datetime, timezone
from typing import Any, Dict, Mapping, Optional, Union

from . import ports
from ._http import Transport, find_token, is_loopback
from .errors import ConnectionFailed, OpenTapError
from .frames import pandas
from .packets import PacketReader

__all__ = ["LOCAL", "capabilities", "capture", "retrieve", "netflowAddApplication", "netflowConvertProtoStr2Num",
           "netflowConvertProtoNum2Str", "appLookup"]

Location = Mapping[str, Any]

LOCAL: Dict[str, str] = {"name": "local", "ipaddr": "127.0.0.1", "portnum": "2020"}

_OLD = ["ts", "te", "td", "sa", "da", "sp", "dp", "pr", "ipkt", "ibyt"]
_NEW = ["first", "last", "duration", "srcaddr", "dstaddr", "srcport", "dstport", "prot", "dPkts", "dOctets"]


def _transport(location: Location) -> Transport:
    host = str(location["ipaddr"])
    url = "%s://%s:%s" % (location.get("scheme") or "http", "[%s]" % host if ":" in host else host, location["portnum"])
    token = location.get("token")
    if not token:
        env = os.environ.get("OPENTAP_URL") or "http://127.0.0.1:2020"
        same = urllib.parse.urlsplit(env if "://" in env else "http://" + env).netloc == urllib.parse.urlsplit(url).netloc
        if same or is_loopback(host):
            token = os.environ.get("OPENTAP_TOKEN")
        token = token or find_token(host)
    return Transport(url, token, 60.0, 3, 30.0, location.get("ca"), None, "opentap-python-classic")


def _get(location: Location, path: str) -> Any:
    """Status, media type and body of an answer, whatever its status."""
    with _transport(location).open("GET", path, accept=tuple(range(400, 600))) as r:
        return r.status, r.headers.get("Content-Type") or "", r.read_all()


def _answer(status: int, media: str, body: bytes) -> Dict[str, Any]:
    try:
        v = json.loads(body)
    except ValueError:
        v = None
    if media.split(";")[0].strip() != "application/json" or not isinstance(v, dict):
        raise ConnectionFailed("the answer with status %d is not that of an OpenTap server" % status, status=status)
    return v


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def capabilities(location: Location = LOCAL) -> Dict[str, Any]:
    """What the server can do: capture_types, retention (minutes, as text), network_observation_pts, sensor_observation_pts.
    An OpenTapError when it does not say."""
    status, media, body = _get(location, "/capabilities")
    v = _answer(status, media, body)
    if status != 200:
        raise OpenTapError(str(v.get("msg", "")) or "status %d" % status, status=status)
    return v


def _seconds(t: Any) -> str:
    if isinstance(t, datetime):
        if t.tzinfo is None:
            t = t.replace(tzinfo=timezone.utc)
        t = t.timestamp()
    if isinstance(t, float):
        return ("%.6f" % t).rstrip("0").rstrip(".")
    return str(int(t))


def capture(datatype: str, startTime: Any, stopTime: Any, captureID: str = "auto", observationPt: str = "",
            period: Optional[int] = None, location: Location = LOCAL) -> Optional[str]:
    """Asks for a capture and returns its id; None when the server refused, whose reason is printed.

    datatype is ethernet, netflow, sensor, temperature, motion, vibration or pcap. captureID 'auto' makes an id such as
    netflow_net_1700000010_1700000070; asking for the same again gives the same capture. period is in milliseconds.
    """
    start, stop = _seconds(startTime), _seconds(stopTime)
    auto = captureID in ("auto", "", None)
    q = {"start": start, "stop": stop, "id": captureID}
    if auto:
        q["id"] = "%s_%s_%s_%s" % (datatype, observationPt or "net", start, stop) + ("_%d" % period if period else "")
    if observationPt:
        q["observationPt"] = observationPt
    if period:
        q["period"] = str(period)
    path = "/capture/" + urllib.parse.quote(datatype, safe="") + "?"
    status, media, body = _get(location, path + urllib.parse.urlencode(q))
    if status == 409 and auto:  # somebody else has the name
        del q["id"]
        status, media, body = _get(location, path + urllib.parse.urlencode(q))
    v = _answer(status, media, body)
    if v.get("status") != "success":
        _say("capture: " + str(v.get("msg", "status %d" % status)))
        return None
    if v.get("msg"):
        _say("capture: " + str(v["msg"]))
    return str(v["id"])


def retrieve(capturetype: str, captureID: str, location: Location = LOCAL) -> Any:
    """The data of a capture as a pandas DataFrame, so far or, once it has ended, all of it.

    netflow has the columns first, last, duration (ms), srcaddr, dstaddr, srcport, dstport, prot, dPkts, dOctets; ethernet and
    sensors those of the server; pcap time, length and data. Times are UTC timestamps. On every error the reason is printed
    and the frame is empty.
    """
    pd = pandas()
    try:
        status, media, body = _get(location, "/retrieve?" + urllib.parse.urlencode({"id": captureID}))
        if status != 200:
            try:
                msg = json.loads(body).get("msg", "")
            except (ValueError, AttributeError):
                msg = ""
            _say("retrieve: status %d%s" % (status, ": " + msg if msg else ""))
            return pd.DataFrame()
        if media == "application/vnd.tcpdump.pcap":
            rows = list(PacketReader(io.BytesIO(body)))
            return pd.DataFrame({"time": pd.to_datetime([p.time_ns for p in rows], utc=True), "length": [p.orig_len for p in rows],
                                 "data": [p.data for p in rows]})
        if media != "text/csv" or body.count(b"\n") < 2:
            return pd.DataFrame()
        return _frame(pd, body)
    except (OpenTapError, ValueError, KeyError) as e:
        _say("retrieve: %s" % e)
        return pd.DataFrame()


def _frame(pd: Any, body: bytes) -> Any:
    head = body.split(b"\n", 1)[0].decode().strip().split(",")
    if all(c in head for c in _OLD):
        body = b"\n".join(body.rstrip(b"\n").split(b"\n")[:-3])  # nfdump's summary
        df = pd.read_csv(io.BytesIO(body), usecols=_OLD, dtype=str, keep_default_na=False)[_OLD]
        df.columns = _NEW
        for c in ("first", "last"):
            df[c] = pd.to_datetime(df[c], utc=True)
        df["duration"] = pd.to_numeric(df["duration"]).astype("float64") * 1000
        for c in ("srcport", "dstport", "dPkts", "dOctets"):
            df[c] = pd.to_numeric(df[c])
        return df
    df = pd.read_csv(io.BytesIO(body))
    if "time" in df.columns:
        df["time"] = pd.to_datetime(df["time"], unit="ms", utc=True)
    return df


def appLookup(port: Union[int, float], prot: Union[str, int]) -> str:
    """The application of a port by IANA's name, 'unknown' where there is none. prot is a name ('TCP') or a number (6)."""
    return ports.app_name(int(port), prot)


def _app(srcport: Any, dstport: Any, prot: Any) -> str:
    try:
        number = ports.protocol_number(prot)
    except ValueError:
        return ports.UNKNOWN
    if number not in (6, 17, 33, 132, 136):
        return ports.protocol_name(number).lower()
    known = [(int(p), a) for p in (dstport, srcport) for a in [appLookup(p, number)] if a != ports.UNKNOWN]
    return min(known)[1] if known else ports.UNKNOWN  # the lower port is the server's, as a rule


def netflowAddApplication(df: Any) -> Any:
    """Adds a column app: the application by the well-known port of the two; ICMP and the like have the protocol's name.
    The frame is changed in place, and returned."""
    df["app"] = [_app(s, d, p) for s, d, p in zip(df["srcport"], df["dstport"], df["prot"])] if len(df) else []
    return df


def _prot(frame_or_value: Any, fn: Any) -> Any:
    if hasattr(frame_or_value, "columns"):
        if "prot" in frame_or_value.columns:
            frame_or_value["prot"] = [fn(v) for v in frame_or_value["prot"]]
        return frame_or_value
    if hasattr(frame_or_value, "map") and hasattr(frame_or_value, "index"):
        return frame_or_value.map(fn)
    return fn(frame_or_value)


def netflowConvertProtoStr2Num(df: Any) -> Any:
    """Turns the column prot from names (TCP) into IANA's numbers (6). The frame is changed in place, and returned; a series
    or a single name gives its like."""
    return _prot(df, ports.protocol_number)


def netflowConvertProtoNum2Str(df: Any) -> Any:
    """Turns the column prot from numbers (6) into names (TCP), as netflowConvertProtoStr2Num does the other way."""
    return _prot(df, lambda v: ports.protocol_name(ports.protocol_number(v)))
