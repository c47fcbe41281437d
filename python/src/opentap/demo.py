"""The demonstration of the first OpenTap: captures flow records for a minute, ten seconds from now, and shows them.

    python -m opentap.demo [--url URL] [--point NAME] [--lead SECONDS] [--duration SECONDS] [--plot [FILE]]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import urllib.parse
from typing import Any, Dict, List, Optional

from . import classic
from ._http import DEFAULT_URL
from .errors import OpenTapError


def location_of(url: str, token: Optional[str]) -> Dict[str, str]:
    u = urllib.parse.urlsplit(url if "://" in url else "http://" + url)
    loc = {"name": u.hostname or "", "ipaddr": u.hostname or "", "scheme": u.scheme,
           "portnum": str(u.port or (443 if u.scheme == "https" else 80))}
    if token:
        loc["token"] = token
    return loc


def plot(df: Any, path: str) -> None:
    """The share of octets per application, into a file, or onto the screen when path is "-"."""
    try:
        import matplotlib
        if path != "-":
            matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        raise SystemExit("demo: --plot needs matplotlib: 'pip install matplotlib' or 'apt install python3-matplotlib'")
    share = df.groupby("app")["dOctets"].sum().sort_values(ascending=False)
    if len(share) > 8:
        rest = share[8:].sum()
        share = share[:8]
        share["others"] = share.get("others", 0) + rest
    fig, ax = plt.subplots(figsize=(8, 6))
    ax.pie(share.values, labels=["%s (%d B)" % kv for kv in share.items()], startangle=90, counterclock=False)
    ax.set_title("Bytes per application")
    if path == "-":
        plt.show()
    else:
        fig.savefig(path, bbox_inches="tight")
        print("the plot is in %s" % path)


def main(argv: Optional[List[str]] = None) -> int:
    p = argparse.ArgumentParser(prog="python -m opentap.demo", description="Capture flow records for a while and show them.")
    p.add_argument("--url", default=os.environ.get("OPENTAP_URL") or DEFAULT_URL, help="server (OPENTAP_URL, %s)" % DEFAULT_URL)
    p.add_argument("--point", default="", help="observation point (the server's default)")
    p.add_argument("--lead", type=float, default=10, metavar="S", help="begin in so many seconds (10)")
    p.add_argument("--duration", type=float, default=60, metavar="S", help="capture for so many seconds (60)")
    p.add_argument("--plot", nargs="?", const="-", metavar="FILE", help="plot bytes per application, on the screen or into FILE")
    a = p.parse_args(argv)
    if a.lead < 0 or a.duration <= 0:
        p.error("times must be positive")
    try:
        loc = location_of(a.url, os.environ.get("OPENTAP_TOKEN"))
        caps = classic.capabilities(loc)
        print("OpenTap at %s captures %s at %s" % (a.url, ", ".join(caps["capture_types"]), ", ".join(caps["network_observation_pts"])))
        start = int(time.time() + a.lead)
        stop = max(start + 1, int(start + a.duration))
        captureID = classic.capture("netflow", start, stop, "auto", a.point, None, loc)
        if captureID is None:
            return 1
        print("capturing flow records for %d s, %d s from now: %s" % (stop - start, a.lead, captureID))
        while time.time() < stop + 1:
            time.sleep(min(1.0, max(0.05, stop + 1 - time.time())))
        df = classic.retrieve("netflow", captureID, loc)
    except (OpenTapError, ImportError) as e:
        print("demo: %s" % e, file=sys.stderr)
        return 1
    if df.empty:
        print("no flows were seen")
        return 0
    classic.netflowAddApplication(df)
    print(df.to_string(max_rows=40))
    print("\nbytes per application:")
    print(df.groupby("app")["dOctets"].sum().sort_values(ascending=False).to_string(header=False))
    if a.plot:
        plot(df, a.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
