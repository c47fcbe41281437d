"""Turns CSV of the server into pandas frames. pandas is imported when the first frame is asked for."""

from __future__ import annotations

import io
from typing import Any

__all__ = ["frame_of"]


def pandas() -> Any:
    """The pandas module, or an ImportError that says what to do."""
    try:
        import pandas as pd
    except ImportError as e:
        raise ImportError(
            "frames need pandas, which is not installed: 'pip install pandas' or 'apt install python3-pandas'. "
            "Without it, download() writes files and rows() gives dictionaries.") from e
    return pd


_TEXT = ("src_addr", "dst_addr", "protocol", "tcp_flags", "rev_tcp_flags", "src_mac", "dst_mac", "end_reason",
         "community_id", "point", "missing")
_TRUTH = ("ports_known", "up", "admin", "carrier")
_REAL = ("duration_ms", "value")


def frame_of(csv: bytes) -> Any:
    """Reads the server's plain CSV of any kind: times are UTC timestamps, whole numbers stay whole (Int64, with <NA> where
    a cell is empty), truths are boolean, text is text."""
    pd = pandas()
    df = pd.read_csv(io.BytesIO(csv), dtype=str, keep_default_na=False, na_values=[""])
    for c in df.columns:
        if c in ("time", "first", "last"):
            df[c] = pd.to_datetime(df[c], utc=True)
        elif c in _TRUTH:
            df[c] = df[c].map({"1": True, "0": False, "true": True, "false": False}).astype("boolean")
        elif c in _REAL:
            df[c] = pd.to_numeric(df[c])
        elif c not in _TEXT:
            df[c] = _whole(pd, df[c])
    return df


def _whole(pd: Any, column: Any) -> Any:
    """Exact beyond 2^53, where a float is not; text that is no whole number stays as it is (columns to come)."""
    filled = column.fillna("0")
    if not filled.str.fullmatch(r"-?[0-9]+").all():
        return column
    values = [int(v) for v in filled]
    kind = "Int64" if all(-(1 << 63) <= v < 1 << 63 for v in values) else "UInt64"
    return pd.Series(pd.array(values, dtype=kind), index=column.index).mask(column.isna())


