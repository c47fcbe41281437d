"""What can go wrong, as exceptions: one class for each kind of error that the server knows, and one for no answer at all."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Type

__all__ = [
    "OpenTapError", "InvalidError", "UnauthenticatedError", "ForbiddenError", "NotFoundError", "ConflictError", "NotReadyError",
    "ExhaustedError", "UnsupportedError", "UnavailableError", "InternalError", "ConnectionFailed", "CaptureFailed", "FormatError",
    "error_of",
]


class OpenTapError(Exception):
    """Any error of this package that is not a mistake in the arguments of a call.

    kind, message, field, hint, position, request_id are the server's words (docs/reference/rest.md); status is that of HTTP,
    0 when there was no answer; retry_after is in seconds, None when the server did not say.
    """

    kind = "error"

    def __init__(self, message: str, *, field: str = "", hint: str = "", position: Optional[int] = None,
                 request_id: str = "", status: int = 0, retry_after: Optional[float] = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.hint = hint
        self.position = position
        self.request_id = request_id
        self.status = status
        self.retry_after = retry_after
        self.expression = ""  # the filter that position points into

    def __str__(self) -> str:
        s = self.message
        if self.field:
            s = self.field + ": " + s
        if self.expression and self.position is not None:
            before = self.expression.encode()[:max(0, self.position - 1)].decode(errors="replace")  # it counts octets, from 1
            return "%s\n  %s\n  %s^%s" % (s, self.expression, " " * len(before), "\n  " + self.hint if self.hint else "")
        return s + ("; " + self.hint if self.hint else "")


class InvalidError(OpenTapError):
    """The request has to be mended; field and position say where."""

    kind = "invalid"


class UnauthenticatedError(OpenTapError):
    """The token is missing, unknown, expired or revoked."""

    kind = "unauthenticated"


class ForbiddenError(OpenTapError):
    """The token lacks the right."""

    kind = "forbidden"


class NotFoundError(OpenTapError):
    """No such capture, point or path."""

    kind = "not_found"


class ConflictError(OpenTapError):
    """The id is taken by other arguments, or the state is another."""

    kind = "conflict"


class NotReadyError(OpenTapError):
    """The capture has no data yet; ask again after retry_after."""

    kind = "not_ready"


class ExhaustedError(OpenTapError):
    """A budget, a quota or a disk is used up."""

    kind = "exhausted"


class UnsupportedError(OpenTapError):
    """Not possible with this server; the message says what is missing."""

    kind = "unsupported"


class UnavailableError(OpenTapError):
    """Not possible at the moment; ask again after retry_after."""

    kind = "unavailable"


class InternalError(OpenTapError):
    """The server's own mistake; request_id finds it in the server's log."""

    kind = "internal"


class ConnectionFailed(OpenTapError):
    """No answer, or one that broke off."""

    kind = "unreachable"


class CaptureFailed(OpenTapError):
    """A capture that was waited for has failed. What it captured before is kept and can be retrieved."""

    kind = "failed"


class FormatError(OpenTapError):
    """A capture file that is not what it should be; offset is where, in octets."""

    kind = "format"

    def __init__(self, message: str, offset: int) -> None:
        super().__init__("%s at offset %d" % (message, offset))
        self.offset = offset


_KINDS: Dict[str, Type[OpenTapError]] = {
    c.kind: c for c in (InvalidError, UnauthenticatedError, ForbiddenError, NotFoundError, ConflictError, NotReadyError,
                        ExhaustedError, UnsupportedError, UnavailableError, InternalError)
}

_STATUS = {400: "invalid", 401: "unauthenticated", 403: "forbidden", 404: "not_found", 405: "invalid", 406: "invalid",
           408: "invalid", 409: "conflict", 412: "conflict", 413: "invalid", 415: "invalid", 416: "invalid", 421: "forbidden",
           429: "exhausted", 501: "unsupported", 503: "unavailable", 507: "exhausted"}


def error_of(status: int, headers: Mapping[str, str], body: Any) -> OpenTapError:
    """Turns an answer with an error status into its exception, whoever sent it: body is the decoded JSON, or None."""
    found = body.get("error") if isinstance(body, dict) else None
    e: Dict[str, Any] = found if isinstance(found, dict) else {}

    def text(key: str) -> str:
        v = e.get(key)
        return v if isinstance(v, str) else ""

    position, after = e.get("position"), e.get("retry_after_seconds")
    if not isinstance(after, (int, float)):
        try:
            after = float(headers.get("Retry-After") or "")
        except ValueError:
            after = None
    cls: Type[OpenTapError] = _KINDS.get(text("kind")) or _KINDS.get(_STATUS.get(status, "")) or InternalError
    return cls(text("message") or "the server answered with status %d" % status, field=text("field"), hint=text("hint"),
               position=position if isinstance(position, int) else None, status=status, retry_after=after,
               request_id=text("request_id") or headers.get("X-Request-Id") or "")
