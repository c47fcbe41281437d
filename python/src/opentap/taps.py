"""Taps: copies of what others' ports send and receive, sent to a port of yours."""

from typing import TYPE_CHECKING, Any, Dict, List

from ._http import escape

if TYPE_CHECKING:
    from .client import Client

Tap = Dict[str, Any]


class Taps:
    """One kind of tap: client.tap_services, client.tap_flows or client.tap_mirrors.

    Fields are those of POST /v1/taps/… (docs/reference/rest.md); names and ids are taken alike.

        client.tap_services.create(name="ids", port="sensor-0")
        client.tap_flows.create(name="web", service="ids", port="web-0", direction="BOTH")
        client.tap_flows.show("web")["status"]
    """

    def __init__(self, client: "Client", kind: str) -> None:
        self._client, self._kind = client, kind

    def __repr__(self) -> str:
        return "<tap %s of %s>" % (self._kind, self._client.url)

    def _path(self, name: str = "") -> str:
        return "/v1/taps/" + self._kind + ("/" + escape(name) if name else "")

    def list(self) -> List[Tap]:
        """Those that one may see."""
        return self._client._http.list(self._path(), self._kind)

    def show(self, name: str) -> Tap:
        """One of them with its status, reason and counts."""
        tap: Tap = self._client._http.json("GET", self._path(name))
        return tap

    def create(self, **fields: Any) -> Tap:
        """Makes one. Its status says when it works: DOWN, ACTIVE or ERROR with the reason."""
        tap: Tap = self._client._http.json("POST", self._path(), fields)
        return tap

    def update(self, name: str, **fields: Any) -> Tap:
        """Changes fields of one."""
        tap: Tap = self._client._http.json("PATCH", self._path(name), fields)
        return tap

    def delete(self, name: str) -> None:
        """Ends one."""
        self._client._http.open("DELETE", self._path(name)).close()

    def estimate(self, **fields: Any) -> Dict[str, Any]:
        """What a flow or mirror of these fields would cost, without making it."""
        cost: Dict[str, Any] = self._client._http.json("POST", self._path() + "/estimate", fields, repeatable=True)
        return cost

    def test(self, name: str) -> Dict[str, Any]:
        """Sends a marked packet through a flow, and says whether it arrived."""
        result: Dict[str, Any] = self._client._http.json("POST", self._path(name) + "/test")
        return result
