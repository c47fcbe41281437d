"""Names of applications by port, and of IP protocols by number."""

from __future__ import annotations

from typing import Dict, Tuple, Union

from ._services import SERVICES

__all__ = ["app_name", "protocol_name", "protocol_number", "UNKNOWN"]

UNKNOWN = "unknown"

# As nfdump prints them, and so the server; a number is a name of its own where there is none.
_NAMES = """
0 ICMP IGMP GGP IPIP ST TCP CBT EGP IGP
BBN NVPII PUP ARGUS ENCOM XNET CHAOS UDP MUX DCN
HMP PRM XNS Trnk1 Trnk2 Leaf1 Leaf2 RDP IRTP ISO-4
NETBK MFESP MEINP DCCP 3PC IDPR XTP DDP IDPR TP++
IL IPv6 SDRP Rte6 Frag6 IDRP RSVP GRE MHRP BNA
ESP AH INLSP SWIPE NARP MOBIL TLSP SKIP ICMP6 NOHE6
OPTS6 HOST CFTP NET SATNT KLAN RVD IPPC FS SATM
VISA IPCV CPNX CPHB WSN PVP BSATM SUNND WBMON WBEXP
ISOIP VMTP SVMTP VINES TTP NSIGP DGP TCF EIGRP OSPF
S-RPC LARP MTP AX.25 OS MICP SCCSP ETHIP ENCAP 99
GMTP IFMP PNNI PIM ARIS SCPS QNX A/N IPcmp SNP
CpqPP IPXIP VRRP PGM 0hop L2TP DDX IATP STP SRP
UTI SMP SM PTP ISIS4 FIRE CRTP CRUDP 128 IPLT
SPS PIPE SCTP FC 134 MHEAD UDP-L MPLS
""".split()

_NUMBERS: Dict[str, int] = {}
for _i, _n in enumerate(_NAMES):
    _NUMBERS.setdefault(_n.upper(), _i)
_NUMBERS.update({"IPV6-ICMP": 58, "ICMPV6": 58, "UDPLITE": 136})

_APPS: Dict[Tuple[int, str], str] = {}
for _line in SERVICES.split("\n"):
    if _line:
        _n, _, _rest = _line.partition(" ")
        _p, _, _protos = _rest.partition("/")
        for _t in _protos.split(","):
            _APPS[int(_p), _t] = _n


def protocol_name(number: int) -> str:
    """The name of an IP protocol as nfdump prints it, or the number as text where it has none."""
    return _NAMES[number] if 0 <= number < len(_NAMES) else str(number)


def protocol_number(name: Union[str, int]) -> int:
    """The number of an IP protocol by its name, in any case; numbers, also as text, are given back. ValueError otherwise."""
    if not isinstance(name, str):
        return int(name)
    text = name.strip()
    if text.isdigit():
        return int(text)
    try:
        return _NUMBERS[text.upper()]
    except KeyError:
        raise ValueError("no IP protocol is called %r" % name) from None


def app_name(port: int, protocol: Union[str, int]) -> str:
    """The application that uses a port, by IANA's name; "unknown" where there is none."""
    try:
        number = protocol_number(protocol)
    except ValueError:
        return UNKNOWN
    transport = {6: "tcp", 17: "udp", 33: "dccp", 132: "sctp", 136: "udp"}.get(number, "")
    return _APPS.get((int(port), transport), UNKNOWN)
