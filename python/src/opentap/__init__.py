"""OpenTap from Python: packets, flow records, counters and sensors of a network.

    import opentap

    client = opentap.Client()                                   # OPENTAP_URL, OPENTAP_TOKEN
    flows = client.capture("netflow", duration=60).wait().frame()

The functions of the first OpenTap's module are here under their old names as well: opentap.capture, opentap.retrieve, …
Only the standard library is needed; frames need pandas.
"""

from .classic import (LOCAL, appLookup, capabilities, capture, netflowAddApplication, netflowConvertProtoNum2Str,
                      netflowConvertProtoStr2Num, retrieve)
from .client import Capture, Client, LiveStream, Progress
from .errors import (CaptureFailed, ConflictError, ConnectionFailed, ExhaustedError, ForbiddenError, FormatError, InternalError,
                     InvalidError, NotFoundError, NotReadyError, OpenTapError, UnauthenticatedError, UnavailableError,
                     UnsupportedError)
from .packets import Packet, PacketReader, read_packets
from .ports import app_name, protocol_name, protocol_number
from .taps import Taps

__version__ = "0.1.0"

__all__ = [
    "LOCAL", "appLookup", "capabilities", "capture", "netflowAddApplication", "netflowConvertProtoNum2Str",
    "netflowConvertProtoStr2Num", "retrieve",
    "Capture", "Client", "LiveStream", "Progress", "Taps",
    "CaptureFailed", "ConflictError", "ConnectionFailed", "ExhaustedError", "ForbiddenError", "FormatError", "InternalError",
    "InvalidError", "NotFoundError", "NotReadyError", "OpenTapError", "UnauthenticatedError", "UnavailableError",
    "UnsupportedError",
    "Packet", "PacketReader", "read_packets",
    "app_name", "protocol_name", "protocol_number",
]
