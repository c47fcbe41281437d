"""The modern interface: a Client, and the Captures it makes."""

from __future__ import annotations

import json
import os
import ssl
import threading
import time
import urllib.parse
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Union, cast

from ._http import DEFAULT_URL, Response, Transport, escape, find_token
from .errors import CaptureFailed, ConflictError, ConnectionFailed, FormatError, InvalidError, NotFoundError, UnsupportedError
from .frames import frame_of, pandas
from .packets import Packet, PacketReader
from .taps import Taps

__all__ = ["Client", "Capture", "LiveStream", "Progress"]

Time = Union[str, int, float, datetime, timedelta]
Span = Union[str, int, float, timedelta]
Path_ = Union[str, "os.PathLike[str]"]

FINAL = ("done", "stopped", "failed")


class Progress(NamedTuple):
    """How far a download has come, in octets. size is None when it is not known before the end."""

    octets: int
    size: Optional[int]


def _span(v: Span) -> str:
    """A duration as the server reads it. Numbers are seconds."""
    if isinstance(v, str):
        return v
    if isinstance(v, timedelta):
        v = v.total_seconds()
    return ("%.9f" % v).rstrip("0").rstrip(".") + "s"


def _moment(v: Time) -> str:
    """A time as RFC 3339. Numbers are Unix seconds; a timedelta counts from now; text goes out as it is."""
    if isinstance(v, str):
        return v
    if isinstance(v, timedelta):
        v = datetime.now(timezone.utc) + v
    if isinstance(v, (int, float)):
        v = datetime.fromtimestamp(v, timezone.utc)
    if v.tzinfo is None:
        raise ValueError("%r has no time zone: say datetime.now(timezone.utc)" % v)
    return v.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")


def _names(points: Union[str, Sequence[str], None]) -> List[str]:
    if points is None:
        return []
    return [points] if isinstance(points, str) else list(points)


class Client:
    """One server. It may be used by several threads.

    url is OPENTAP_URL or http://127.0.0.1:2020 unless given; token is OPENTAP_TOKEN, or for a server on this machine the one
    it made itself, where it can be read. ca is a PEM file with the authority that signed the server's certificate (OPENTAP_CA);
    of a server on this machine it is found. fingerprint ("SHA256:…", as opentapd --show-fingerprint prints it) trusts the server whose
    self-made authority has it, in place of a file. timeout is for a connection and for every wait for data; a server that says "not now" is asked again up to retries times within patience
    seconds.
    """

    def __init__(self, url: Optional[str] = None, token: Optional[str] = None, *, timeout: float = 60.0, retries: int = 3,
                 patience: float = 30.0, ca: Optional[str] = None, context: Optional[ssl.SSLContext] = None,
                 fingerprint: Optional[str] = None) -> None:
        url = url or os.environ.get("OPENTAP_URL") or DEFAULT_URL
        self._http = Transport(url, token or os.environ.get("OPENTAP_TOKEN"), timeout, retries, patience, ca, context, "opentap-python",
                               fingerprint)
        if not self._http.token:
            self._http.token = find_token(self._http.host)

        self.tap_services, self.tap_flows, self.tap_mirrors = Taps(self, "services"), Taps(self, "flows"), Taps(self, "mirrors")

    @property
    def url(self) -> str:
        return self._http.url

    def __repr__(self) -> str:
        return "Client(%r)" % self.url

    # --- what there is ---

    def version(self) -> Dict[str, Any]:
        """The server's version and that of its interface."""
        return cast(Dict[str, Any], self._http.json("GET", "/v1/version"))

    def points(self) -> List[Dict[str, Any]]:
        """The observation points: name, node, kind, aliases, up, present, … (docs/reference/rest.md)."""
        return cast(List[Dict[str, Any]], self._http.list("/v1/points", "points"))

    def point(self, name: str) -> Dict[str, Any]:
        """One observation point by name, alias or node/name."""
        return cast(Dict[str, Any], self._http.json("GET", "/v1/points/" + escape(name)))

    def capabilities(self) -> Dict[str, Any]:
        """What can be captured, and within which limits."""
        return cast(Dict[str, Any], self._http.json("GET", "/v1/capabilities"))

    def nodes(self) -> List[Dict[str, Any]]:
        """The hosts with an agent, and how they fare."""
        return cast(List[Dict[str, Any]], self._http.list("/v1/nodes", "nodes"))

    def check_filter(self, filter: str, strict: bool = False) -> Dict[str, Any]:
        """Whether a filter is understood, and what it means; InvalidError with the position otherwise."""
        try:
            return cast(Dict[str, Any], self._http.json("POST", "/v1/filter/check", {"filter": filter, "strict": strict}, repeatable=True))
        except InvalidError as e:
            raise _marked(e, filter)

    def taps(self) -> Dict[str, List[Dict[str, Any]]]:
        """All tap services, flows and mirrors that one may see. tap_services, tap_flows and tap_mirrors make and change them."""
        return cast(Dict[str, List[Dict[str, Any]]], self._http.json("GET", "/v1/taps"))

    def sensors(self) -> Dict[str, Any]:
        """Has all nodes look for sensors and read each once: readings with value or missing, and problems."""
        return cast(Dict[str, Any], self._http.json("GET", "/v1/sensors"))

    # --- captures ---

    def capture(self, kind: str, points: Union[str, Sequence[str], None] = None, *, duration: Optional[Span] = None,
                start: Optional[Time] = None, stop: Optional[Time] = None, filter: str = "", strict: bool = False,
                period: Optional[Span] = None, snap: int = 0, max_packets: int = 0, max_octets: int = 0,
                retain: Optional[Span] = None, id: Optional[str] = None) -> "Capture":
        """Begins a capture, now or later, or from a recording when start is in the past.

        kind is pcap, netflow, ethernet or sensor (also temperature, motion, vibration). Without points the default point is
        meant. Durations are seconds, timedelta or text such as '500ms'; times are datetime with a time zone, Unix seconds,
        RFC 3339 text, or a timedelta from now. Without duration and stop it runs until stop() or a limit.
        The same request with the same id gives the same capture.
        """
        body: Dict[str, Any] = {"kind": kind, "id": id or "py-" + uuid.uuid4().hex[:16]}
        if points:
            body["points"] = _names(points)
        if start is not None:
            body["from"] = _moment(start)
        if stop is not None:
            body["to"] = _moment(stop)
        for key, span in (("duration", duration), ("period", period), ("retain", retain)):
            if span is not None:
                body[key] = _span(span)
        if filter:
            body["filter"] = filter
        if strict:
            body["strict"] = True
        if snap:
            body["snap"] = snap
        limits = {k: v for k, v in (("packets", max_packets), ("octets", max_octets)) if v}
        if limits:
            body["limits"] = limits
        try:
            return Capture(self, self._http.json("POST", "/v1/captures", body, repeatable=True))  # the id makes it safe
        except InvalidError as e:
            raise _marked(e, filter)

    def captures(self) -> List["Capture"]:
        """All captures that one may see."""
        return [Capture(self, v) for v in self._http.list("/v1/captures", "captures")]

    def get(self, id: str) -> "Capture":
        """One capture by its id."""
        return Capture(self, self._http.json("GET", "/v1/captures/" + escape(id)))

    # --- live ---

    def live(self, points: Union[str, Sequence[str], None] = None, *, filter: str = "", strict: bool = False, snap: int = 0,
             past: Optional[Span] = None, duration: Optional[Span] = None, max_packets: int = 0) -> "LiveStream":
        """Packets as they come, stored nowhere. Iterate over it, and close it or use it in a with statement.

        UnsupportedError when the server has no live streams (it is older, or its door is closed).
        """
        q = [("point", p) for p in _names(points)]
        if filter:
            q.append(("filter", filter))
        if strict:
            q.append(("strict", "true"))
        for key, span in (("past", past), ("duration", duration)):
            if span is not None:
                q.append((key, _span(span)))
        for key, n in (("snap", snap), ("packets", max_packets)):
            if n:
                q.append((key, str(n)))
        path = "/v1/live" + ("?" + urllib.parse.urlencode(q) if q else "")
        try:
            return LiveStream(self._http.open("GET", path, endless=True))
        except InvalidError as e:
            raise _marked(e, filter)
        except NotFoundError as e:
            if "/v1/live" in (self._http.json("GET", "/openapi.json") or {}).get("paths", {}):
                raise  # a point is not there
            raise UnsupportedError("this server has no live streams", status=e.status, request_id=e.request_id,
                                   hint="capture, and retrieve while it runs") from e


def _marked(e: InvalidError, filter: str) -> InvalidError:
    if e.field == "filter":
        e.expression = filter
    return e


class LiveStream:
    """Packets as they come. stats has the newest accounts of each interface, losses included."""

    def __init__(self, resp: Response) -> None:
        self._resp = resp
        self._closed = False
        self._reading = threading.RLock()
        self._reader: Optional[PacketReader] = None

    def __iter__(self) -> "LiveStream":
        return self

    def __next__(self) -> Packet:
        with self._reading:
            if self._closed:
                raise StopIteration
            try:
                if self._reader is None:
                    self._reader = PacketReader(self._resp)
                return next(self._reader)
            except (ConnectionFailed, FormatError):
                if self._closed:
                    raise StopIteration from None
                raise
            except StopIteration:
                self.close()
                raise

    @property
    def stats(self) -> Dict[int, Dict[str, int]]:
        return dict(self._reader.stats) if self._reader else {}

    def close(self) -> None:
        """Ends the stream, also from another thread."""
        if not self._closed:
            self._closed = True
            self._resp.interrupt()
            with self._reading:
                self._resp.close()

    def __enter__(self) -> "LiveStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Capture:
    """A capture on the server. view is all that the server said of it last; refresh() asks again."""

    def __init__(self, client: Client, view: Dict[str, Any]) -> None:
        self._http = client._http
        self.client = client
        self.view = view

    def __repr__(self) -> str:
        return "<Capture %r %s %s>" % (self.id, self.kind, self.state)

    @property
    def id(self) -> str:
        return cast(str, self.view["id"])

    @property
    def kind(self) -> str:
        return cast(str, self.view["kind"])

    @property
    def state(self) -> str:
        """scheduled, running, degraded, done, stopped or failed."""
        return cast(str, self.view["status"]["state"])

    @property
    def reason(self) -> str:
        """Why it is in this state, in plain words."""
        return cast(str, self.view["status"].get("reason", ""))

    @property
    def final(self) -> bool:
        """Nothing will be added any more."""
        return self.state in FINAL

    @property
    def note(self) -> str:
        """What was changed or assumed when it was accepted."""
        return cast(str, self.view.get("note", ""))

    @property
    def formats(self) -> List[str]:
        """What the data can be retrieved as; the first is the default."""
        return cast(List[str], self.view.get("formats", []))

    def _path(self, tail: str = "") -> str:
        return "/v1/captures/" + escape(self.id) + tail

    def refresh(self) -> "Capture":
        self.view = self._http.json("GET", self._path())
        return self

    def wait(self, progress: Optional[Callable[["Capture"], None]] = None, *, timeout: Optional[float] = None,
             every: float = 0.5) -> "Capture":
        """Waits until it has ended. progress is called with this capture each time the server was asked, every so many
        seconds. TimeoutError after timeout seconds; CaptureFailed when it failed."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self.refresh()
            if progress is not None:
                progress(self)
            if self.state == "failed":
                raise CaptureFailed("capture %s failed: %s" % (self.id, self.reason or "the server does not say why"))
            if self.final:
                return self
            pause = every
            if deadline is not None:
                pause = min(pause, deadline - time.monotonic())
                if pause <= 0:
                    raise TimeoutError("capture %s is %s after %g s" % (self.id, self.state, timeout or 0.0))
            time.sleep(pause)

    def stop(self) -> "Capture":
        """Ends it now; what it has is kept."""
        self.view = self._http.json("POST", self._path("/stop"))
        return self

    def delete(self) -> None:
        """Deletes it with its data."""
        self._http.open("DELETE", self._path()).close()

    def ledger(self) -> Dict[str, Any]:
        """The packet accounts: seen = captured + filtered + sampled_out + rate_limited + dropped_total."""
        return cast(Dict[str, Any], self._http.json("GET", self._path("/ledger"))["ledger"])

    # --- data ---

    def retrieve(self, format: Optional[str] = None, path: Optional[Path_] = None) -> Any:
        """What one wants as a rule: a pandas frame of flows, counters and samples, an iterator of packets of a pcap capture.
        With path the data is written there in the format (default: the first of formats), and the path returned."""
        if path is not None:
            return self.download(path, format)
        if self.kind == "pcap":
            return self.packets(format)
        if format not in (None, "csv"):
            raise ValueError("format %r is for files: give a path as well" % format)
        return self.frame()

    def frame(self) -> Any:
        """Flows, counters or samples as a pandas DataFrame."""
        if self.kind == "pcap":
            raise TypeError("a pcap capture has packets: use packets() or download()")
        pandas()  # says so before the data comes
        body = _Body(self, "csv")
        try:
            return frame_of(b"".join(iter(lambda: body.read1(1 << 18), b"")))
        finally:
            body.close()

    def rows(self) -> Iterator[Dict[str, Any]]:
        """Flows, counters or samples as dictionaries, one by one. Needs no pandas."""
        if self.kind == "pcap":
            raise TypeError("a pcap capture has packets: use packets() or download()")
        body = _Body(self, "ndjson")
        try:
            rest = b""
            for b in iter(lambda: body.read1(1 << 18), b""):
                lines = (rest + b).split(b"\n")
                rest = lines.pop()
                for line in lines:
                    yield json.loads(line)
            if rest.strip():
                yield json.loads(rest)
        finally:
            body.close()

    def packets(self, format: Optional[str] = None) -> Iterator[Packet]:
        """The packets, one by one: (time_ns, orig_len, data). A connection that breaks is gone on with."""
        if self.kind != "pcap":
            raise TypeError("a %s capture has no packets: use frame(), rows() or download()" % self.kind)
        body = _Body(self, format)
        try:
            yield from PacketReader(body)
        finally:
            body.close()

    def download(self, path: Path_, format: Optional[str] = None, *,
                 progress: Optional[Callable[[Progress], None]] = None) -> Path:
        """Writes the data to a file, which appears under its name when it is whole; until then it is PATH.part. A download
        that broke, also in an earlier run, goes on where it stopped when the server still has the same snapshot."""
        path = Path(path)
        fmt = format or (self.formats[0] if self.formats else "")
        part, note = Path(str(path) + ".part"), Path(str(path) + ".part.json")
        known = _note(note, self.view.get("uid", ""), fmt, part)
        with open(part, "r+b" if part.exists() else "w+b") as f:
            body = _Body(self, fmt, known["offset"], known["etag"], restart=True)
            try:
                while True:
                    try:
                        b = body.read1(1 << 18)
                    except BaseException:
                        f.flush()
                        self._keep(note, fmt, body)
                        raise
                    if body.restarted:
                        body.restarted = False
                        f.truncate(0)
                    f.seek(body.offset - len(b))
                    f.write(b)
                    if progress is not None:
                        progress(Progress(body.offset, body.size))
                    if not b:
                        break
            finally:
                body.close()
            f.truncate(body.offset)
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
        if note.exists():
            note.unlink()
        return path

    def _keep(self, note: Path, fmt: str, body: "_Body") -> None:
        """Notes how far a download came, as the command line does."""
        if body.offset > 0 and body.etag:
            note.write_text(json.dumps({"uid": self.view.get("uid", ""), "format": fmt, "etag": body.etag,
                                        "offset": body.offset, "size": -1 if body.size is None else body.size}))


def _note(note: Path, uid: str, fmt: str, part: Path) -> Dict[str, Any]:
    try:
        n = json.loads(note.read_text())
        if n["uid"] == uid and n["format"] == fmt and n["etag"] and 0 < int(n["offset"]) <= part.stat().st_size:
            return {"offset": int(n["offset"]), "etag": str(n["etag"])}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {"offset": 0, "etag": ""}


class _Body:
    """The octets of a capture's data from an offset on. A broken connection is gone on with as long as there is progress.
    With restart it may begin anew at 0 when the snapshot is gone, which restarted then says; otherwise that is an error."""

    def __init__(self, capture: Capture, format: Optional[str], offset: int = 0, etag: str = "", restart: bool = False) -> None:
        self._capture, self._format, self._restart = capture, format, restart
        self.offset, self.etag = offset, etag
        self.size: Optional[int] = None
        self.restarted = False
        self._resp: Optional[Response] = None
        self._complete = False
        self._progress = True

    def _open(self) -> None:
        path = self._capture._path("/data") + ("?format=" + urllib.parse.quote(self._format) if self._format else "")
        headers = {}
        if self.offset and self.etag:
            headers = {"Range": "bytes=%d-" % self.offset, "If-Range": '"%s"' % self.etag}
        resp = self._capture._http.open("GET", path, headers=headers, accept=(416,))
        if resp.status == 416:
            total = (resp.headers.get("Content-Range") or "").partition("*/")[2]
            resp.close()
            if self.offset and total == str(self.offset):
                self.size, self._complete = self.offset, True
                return
            self.offset, self.etag = self._anew(), ""
            return self._open()
        got = 0
        if resp.status == 206:
            words = (resp.headers.get("Content-Range") or "").replace("/", " ").replace("-", " ").split()
            if len(words) != 4 or words[1] != str(self.offset):
                resp.close()
                raise ConnectionFailed("the server sent the range %r when asked for %d-" % (resp.headers.get("Content-Range"), self.offset))
            got = self.offset
            self.size = int(words[3]) if words[3].isdigit() else None
        else:
            self.size = resp.left
            if self.offset:
                try:
                    self._anew()
                except ConflictError:
                    resp.close()
                    raise
        tag = resp.headers.get("ETag") or ""
        self.offset, self.etag = got, tag[1:-1] if len(tag) > 2 and tag[0] == tag[-1] == '"' else ""
        self._resp = resp

    def _anew(self) -> int:
        if not self._restart:
            raise ConflictError("the data broke off after %d octets and its snapshot is gone" % self.offset, hint="begin again")
        self.restarted = True
        return 0

    def read1(self, n: int) -> bytes:
        while not self._complete:
            if self._resp is None:
                self._open()
                continue
            try:
                b = self._resp.read1(n)
            except ConnectionFailed:
                self.close()
                if not self._progress or not self.etag:
                    raise
                self._progress = False
                continue
            if b:
                self.offset += len(b)
                self._progress = True
                return b
            self._complete = True
        return b""

    def close(self) -> None:
        if self._resp is not None:
            self._resp.close()
            self._resp = None
