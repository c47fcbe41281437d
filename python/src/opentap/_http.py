"""Requests to a server: connection, token, retries, errors. Not for others to use."""

from __future__ import annotations

import base64
import hashlib
import http.client
import ipaddress
import json
import os
import socket
import ssl
import time
import urllib.parse
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from .errors import ConnectionFailed, OpenTapError, UnavailableError, error_of

DEFAULT_URL = "http://127.0.0.1:2020"
PAGE = 5000  # things of a list that are asked for at a time
MAX_JSON = 64 << 20  # octets of an answer that is read whole


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def find_token(host: str) -> str:
    """The token of a server on this machine, where it may be read. That one never leaves the machine."""
    if not is_loopback(host):
        return ""
    for d in data_dirs():
        try:
            text = (d / "admin.token").read_text("ascii").strip()
        except (OSError, ValueError):
            continue
        if text and all("!" <= c <= "~" for c in text) and len(text) <= 4096:
            return text
    return ""


def data_dirs() -> List[Path]:
    """Where a server on this machine may keep its data."""
    dirs = [os.environ.get("OPENTAP_DATA", ""), "opentap-data", "/var/lib/opentap", "/opt/opentap/log"]
    return [Path(d) for d in dirs if d]


def tls_context(host: str, ca: Optional[str]) -> ssl.SSLContext:
    """Believes in ca (default: OPENTAP_CA) alone, or else in the system's authorities and, for a server on this machine, in
    the one that it made itself."""
    ca = ca or os.environ.get("OPENTAP_CA")
    context = ssl.create_default_context(cafile=ca)
    if not ca and is_loopback(host):
        for d in data_dirs():
            try:
                context.load_verify_locations(cafile=str(d / "tls" / "ca.pem"))
            except (OSError, ssl.SSLError):
                pass
    return context


def pinned_context(host: str, port: int, fingerprint: str, timeout: float) -> ssl.SSLContext:
    """Asks the server for its certificates, and believes in the one that has the fingerprint, and in no other. Nothing is sent to a
    server that does not show it."""
    look = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    look.check_hostname, look.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), timeout) as raw, look.wrap_socket(raw, server_hostname=host) as s:
            shown = _chain(s)
    except (OSError, ssl.SSLError) as e:
        raise ConnectionFailed("reach %s:%d: %s" % (host, port, reason_of(e))) from e
    for der in shown:
        if fingerprint_of(der) == fingerprint:
            context = ssl.create_default_context(cadata=der)
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a certificate of the server's own, without an authority
            return context
    raise ConnectionFailed("%s:%d shows no certificate with the fingerprint %s; it may not be the server you mean" % (host, port, fingerprint))


def _chain(s: ssl.SSLSocket) -> List[bytes]:
    """The certificates that the server shows, in DER. Only Python 3.13 and later tell them all in public."""
    if hasattr(s, "get_unverified_chain"):
        return [bytes(c) for c in s.get_unverified_chain()]
    inner: Any = getattr(s, "_sslobj", None)
    if hasattr(inner, "get_unverified_chain"):
        return [ssl.PEM_cert_to_DER_cert(c.public_bytes()) for c in inner.get_unverified_chain()]
    leaf = s.getpeercert(binary_form=True)
    return [leaf] if leaf else []


def fingerprint_of(der: bytes) -> str:
    """As opentapd prints it: of the certificate's public key (SubjectPublicKeyInfo, RFC 5280 section 4.1)."""
    _, start, _ = _tlv(der, 0)  # Certificate
    _, at, _ = _tlv(der, start)  # TBSCertificate
    if der[at] == 0xA0:  # version
        _, _, at = _tlv(der, at)
    for _ in range(5):  # serial number, signature, issuer, validity, subject
        _, _, at = _tlv(der, at)
    _, _, end = _tlv(der, at)
    return "SHA256:" + base64.b64encode(hashlib.sha256(der[at:end]).digest()).decode().rstrip("=")


def _tlv(der: bytes, at: int) -> Tuple[int, int, int]:
    """Tag of the DER element at this place, where its content begins, and where it ends."""
    try:
        tag, n, start = der[at], der[at + 1], at + 2
    except IndexError:
        raise ConnectionFailed("the server shows a certificate that cannot be read") from None
    if n >= 0x80:
        octets = n & 0x7F
        n, start = int.from_bytes(der[start:start + octets], "big"), start + octets
    if start + n > len(der):
        raise ConnectionFailed("the server shows a certificate that cannot be read")
    return tag, start, start + n


def escape(segment: str) -> str:
    """One path segment. Dots alone would be taken for a directory."""
    if segment.strip(".") == "":
        return segment.replace(".", "%2E")
    return urllib.parse.quote(segment, safe="")


class Response:
    """An answer with a body that comes as it is read."""

    def __init__(self, conn: http.client.HTTPConnection, sock: Any, resp: http.client.HTTPResponse, where: str) -> None:
        self._conn, self._sock, self._resp, self._where = conn, sock, resp, where
        self.status = resp.status
        self.headers = resp.headers
        self.left = resp.length  # octets still to come; None = not known

    def read1(self, n: int) -> bytes:
        """What is there, at most n octets; b"" at the clean end. A body that breaks off is a ConnectionFailed."""
        try:
            b = self._resp.read1(n)
        except (OSError, http.client.HTTPException, ValueError) as e:
            raise ConnectionFailed("%s broke off: %s" % (self._where, reason_of(e))) from e
        if self.left is not None:
            self.left -= len(b)
            if not b and self.left > 0:
                raise ConnectionFailed("%s broke off: %d octets are missing" % (self._where, self.left))
        return b

    def read_all(self) -> bytes:
        parts: List[bytes] = []
        size = 0
        while True:
            b = self.read1(1 << 16)
            if not b:
                return b"".join(parts)
            size += len(b)
            if size > MAX_JSON:
                raise ConnectionFailed("%s sent more than %d octets" % (self._where, MAX_JSON))
            parts.append(b)

    def interrupt(self) -> None:
        """Ends a read1 of another thread."""
        if self._sock is not None:
            try:
                self._sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self) -> None:
        self._resp.close()
        self._conn.close()

    def __enter__(self) -> "Response":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def reason_of(e: BaseException) -> str:
    if isinstance(e, http.client.IncompleteRead):
        return "the connection ended early"
    if isinstance(e, socket.timeout):
        return "no answer in time"
    return str(e) or type(e).__name__


def _hint(e: BaseException) -> str:
    if isinstance(e, ConnectionRefusedError):
        return "is opentapd running there?"
    if isinstance(e, ssl.SSLCertVerificationError):
        return "name the authority that signed the server's certificate: ca=FILE or OPENTAP_CA; that of opentapd itself is DATA-DIR/tls/ca.pem"
    return ""


class Transport:
    """Sends requests. A connection is made for each, so that it can be used by several threads at once."""

    def __init__(self, url: str, token: Optional[str], timeout: float, retries: int, patience: float,
                 ca: Optional[str], context: Optional[ssl.SSLContext], agent: str, fingerprint: Optional[str] = None) -> None:
        if "://" not in url:
            url = "http://" + url
        u = urllib.parse.urlsplit(url)
        if u.scheme not in ("http", "https") or not u.hostname:
            raise ValueError("url: %r is not http://HOST:PORT or https://HOST:PORT" % url)
        if u.username or u.password or u.query or u.fragment:
            raise ValueError("url: no user, query or fragment belongs there")
        self.scheme, self.host = u.scheme, u.hostname
        self.port = u.port or (443 if u.scheme == "https" else 80)
        self.prefix = u.path.rstrip("/")
        host = "[%s]" % self.host if ":" in self.host else self.host
        self.url = "%s://%s:%d%s" % (self.scheme, host, self.port, self.prefix)
        self.token = token
        self.timeout, self.retries, self.patience, self.agent = timeout, retries, patience, agent
        self._context = context
        self._fingerprint = fingerprint
        if fingerprint and (ca or context):
            raise ValueError("fingerprint: it says whom to trust, and so do ca and context: give one of them")
        if self.scheme == "https" and context is None and not fingerprint:
            self._context = tls_context(self.host, ca)

    def _once(self, method: str, path: str, body: Optional[bytes], headers: Dict[str, str], endless: bool) -> Response:
        conn: http.client.HTTPConnection
        if self.scheme == "https" and self._context is None:
            self._context = pinned_context(self.host, self.port, self._fingerprint or "", self.timeout)
        if self.scheme == "https":
            conn = http.client.HTTPSConnection(self.host, self.port, timeout=self.timeout, context=self._context)
        else:
            conn = http.client.HTTPConnection(self.host, self.port, timeout=self.timeout)
        h = {"User-Agent": self.agent, "Accept-Encoding": "identity", "Connection": "close", **headers}
        if self.token:
            h["Authorization"] = "Bearer " + self.token
        if body is not None:
            h["Content-Type"] = "application/json"
        try:
            conn.request(method, self.prefix + path, body=body, headers=h)
            sock = conn.sock
            if endless:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                sock.settimeout(None)
            return Response(conn, sock, conn.getresponse(), self.url)
        except (OSError, http.client.HTTPException) as e:
            conn.close()
            raise ConnectionFailed("%s cannot be reached: %s" % (self.url, reason_of(e)),
                                   hint=_hint(e)) from e

    def open(self, method: str, path: str, body: Any = None, headers: Optional[Dict[str, str]] = None, *,
             repeatable: Optional[bool] = None, endless: bool = False, accept: Tuple[int, ...] = ()) -> Response:
        """Sends a request and returns the answer, an error as exception.

        The server's "not now" (429, 503 with Retry-After) is obeyed for every method: it has done nothing then. A lost
        connection is tried again only when repeating does no harm. accept names error statuses that the caller handles.
        """
        data = None if body is None else json.dumps(body).encode()
        if repeatable is None:
            repeatable = method in ("GET", "HEAD")
        deadline = time.monotonic() + self.patience
        tries = 0
        while True:
            tries += 1
            wait: Optional[float] = None
            try:
                resp = self._once(method, path, data, headers or {}, endless)
                if resp.status < 400 or resp.status in accept:
                    return resp
                with resp:
                    raw = resp.read_all()
                try:
                    decoded = json.loads(raw)
                except ValueError:
                    decoded = None
                err: OpenTapError = error_of(resp.status, dict(resp.headers.items()), decoded)
                if resp.status in (429, 503) and err.retry_after is not None:
                    wait = max(err.retry_after, 0.05)
            except ConnectionFailed as e:
                err = e
                if repeatable:
                    wait = 0.2 * tries
            if wait is None or tries > self.retries or time.monotonic() + wait > deadline:
                raise err
            time.sleep(wait)

    def list(self, path: str, plural: str) -> List[Any]:
        """A whole list, fetched page by page: one answer has a bound, and a list has none."""
        found: List[Any] = []
        page: Dict[str, Any] = {"next": ""}
        while "next" in page:
            query = {"limit": PAGE, **({"page_token": page["next"]} if page["next"] else {})}
            page = self.json("GET", path + "?" + urllib.parse.urlencode(query))
            found += page[plural]
        return found

    def json(self, method: str, path: str, body: Any = None, *, repeatable: Optional[bool] = None) -> Any:
        with self.open(method, path, body, repeatable=repeatable) as resp:
            raw = resp.read_all()
            if not raw:
                return None
            try:
                return json.loads(raw)
            except ValueError as e:
                raise UnavailableError("%s is no OpenTap server: its answer is not JSON" % self.url, status=resp.status) from e
