package packet

import (
	"strconv"
	"strings"
)

// protoNames are the names that nfdump 1.7.1 prints, by protocol number. A number is a name of its own where it has none.
var protoNames = strings.Fields(`
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
	SPS PIPE SCTP FC 134 MHEAD UDP-L MPLS`)

// ProtoName returns the short name of an IP protocol as nfdump prints it ("TCP", "UDP", "ICMP", "ICMP6"), or its number
// where nfdump prints that. The oddities are nfdump's: two protocols are IDPR, EMCON is ENCOM, 94 is OS.
func ProtoName(proto uint8) string {
	if int(proto) < len(protoNames) {
		return protoNames[proto]
	}
	return strconv.Itoa(int(proto))
}
