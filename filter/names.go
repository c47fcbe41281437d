package filter

// word is what a keyword means to the parser.
type word struct {
	kind  wordKind
	proto Protocol
	value uint32
}

type wordKind uint8

const (
	wNone wordKind = iota
	wProto
	wSrc
	wDst
	wHost
	wNet
	wMask
	wPort
	wPortrange
	wProtoNum
	wAnd
	wOr
	wNot
	wLess
	wGreater
	wLen
	wBroadcast
	wMulticast
	wVLAN
	wMPLS
	wPPPoED
	wPPPoES
	wGeneve
	wInner
	wBound
	wLLC
	wOSI
	wConst
	wRefused // known to pcap-filter, not to us; refused[] says why
)

// words holds every keyword. Built once, never changed.
var words = buildWords()

func buildWords() map[string]word {
	m := map[string]word{
		"src": {kind: wSrc}, "dst": {kind: wDst}, "host": {kind: wHost}, "net": {kind: wNet}, "mask": {kind: wMask},
		"port": {kind: wPort}, "portrange": {kind: wPortrange}, "proto": {kind: wProtoNum},
		"and": {kind: wAnd}, "or": {kind: wOr}, "not": {kind: wNot},
		"less": {kind: wLess}, "greater": {kind: wGreater}, "len": {kind: wLen}, "length": {kind: wLen},
		"broadcast": {kind: wBroadcast}, "multicast": {kind: wMulticast},
		"vlan": {kind: wVLAN}, "mpls": {kind: wMPLS}, "pppoed": {kind: wPPPoED}, "pppoes": {kind: wPPPoES},
		"geneve": {kind: wGeneve}, "inner": {kind: wInner}, "inbound": {kind: wBound}, "outbound": {kind: wBound},
		"llc":  {kind: wLLC},
		"link": {kind: wProto, proto: Link},
	}
	for n := range osiWords {
		m[n] = word{kind: wOSI}
	}
	for p := Link; int(p) < len(protocols); p++ {
		m[protocols[p].word] = word{kind: wProto, proto: p}
	}
	for n, v := range constants {
		m[n] = word{kind: wConst, value: v}
	}
	for n := range refused {
		m[n] = word{kind: wRefused}
	}
	return m
}

// constants are the names of offsets and values in pcap-filter(7).
var constants = map[string]uint32{
	"icmptype": 0, "icmpcode": 1, "icmp-echoreply": 0, "icmp-unreach": 3, "icmp-sourcequench": 4, "icmp-redirect": 5,
	"icmp-echo": 8, "icmp-routeradvert": 9, "icmp-routersolicit": 10, "icmp-timxceed": 11, "icmp-paramprob": 12,
	"icmp-tstamp": 13, "icmp-tstampreply": 14, "icmp-ireq": 15, "icmp-ireqreply": 16, "icmp-maskreq": 17,
	"icmp-maskreply": 18,
	"icmp6type":      0, "icmp6code": 1, "icmp6-destinationunreach": 1, "icmp6-packettoobig": 2,
	"icmp6-timeexceeded": 3, "icmp6-parameterproblem": 4, "icmp6-echo": 128, "icmp6-echoreply": 129,
	"icmp6-multicastlistenerquery": 130, "icmp6-multicastlistenerreportv1": 131, "icmp6-multicastlistenerdone": 132,
	"icmp6-routersolicit": 133, "icmp6-routeradvert": 134, "icmp6-neighborsolicit": 135, "icmp6-neighboradvert": 136,
	"icmp6-redirect": 137, "icmp6-routerrenum": 138, "icmp6-nodeinformationquery": 139,
	"icmp6-nodeinformationresponse": 140, "icmp6-ineighbordiscoverysolicit": 141, "icmp6-ineighbordiscoveryadvert": 142,
	"icmp6-multicastlistenerreportv2": 143, "icmp6-homeagentdiscoveryrequest": 144, "icmp6-homeagentdiscoveryreply": 145,
	"icmp6-mobileprefixsolicit": 146, "icmp6-mobileprefixadvert": 147, "icmp6-certpathsolicit": 148,
	"icmp6-certpathadvert": 149, "icmp6-multicastrouteradvert": 151, "icmp6-multicastroutersolicit": 152,
	"icmp6-multicastrouterterm": 153,
	"tcpflags":                  13, "tcp-fin": 1, "tcp-syn": 2, "tcp-rst": 4, "tcp-push": 8, "tcp-ack": 16, "tcp-urg": 32,
	"tcp-ece": 64, "tcp-cwr": 128,
}

// refused are words of pcap-filter that are not obeyed, with the hint to give.
var refused = map[string]string{
	"protochain": "following header chains needs a loop, which no kernel filter has; ip6 proto N also looks behind a fragment header",
	"gateway": "it means the host's Ethernet address but not its IP address, and which belong together only a name server and the " +
		"hosts file know: write ether host MAC and not host ADDRESS",
	"ifindex": "choose the interface by the capture's points",
	"byte":    "write ether[N] & MASK = VALUE",
	"type":    "802.11 frames are not supported", "subtype": "802.11 frames are not supported",
	"wlan": "802.11 frames are not supported; write ether", "ppp": "PPP links are not supported",
	"slip": "SLIP links are not supported", "fddi": "FDDI links are not supported; write ether",
	"tr": "Token Ring is not supported; write ether", "radio": "802.11 frames are not supported",
	"lane": "ATM is not supported", "vpi": "ATM is not supported", "vci": "ATM is not supported",
	"ifname": "choose the interface by the capture's points", "on": "choose the interface by the capture's points",
	"rnr": "pf log headers are not supported", "rulenum": "pf log headers are not supported",
}

// linkNames are the names ether proto takes beside numbers.
var linkNames = map[string]uint32{
	"ip": 0x0800, "ip6": 0x86dd, "arp": 0x0806, "rarp": 0x8035, "atalk": 0x809b, "aarp": 0x80f3, "decnet": 0x6003,
	"lat": 0x6004, "sca": 0x6007, "moprc": 0x6002, "mopdl": 0x6001, "loopback": 0x9000,
	"iso": 0xfe, "stp": 0x42, "ipx": 0xe0, "netbeui": 0xf0,
}

// ipNames are the names ip proto takes beside numbers (IANA protocol numbers).
var ipNames = map[string]uint32{
	"icmp": 1, "igmp": 2, "ipencap": 4, "tcp": 6, "egp": 8, "igp": 9, "udp": 17, "dccp": 33, "ipv6": 41,
	"ipv6-route": 43, "ipv6-frag": 44, "rsvp": 46, "gre": 47, "esp": 50, "ah": 51, "ipv6-icmp": 58, "icmp6": 58,
	"ipv6-nonxt": 59, "ipv6-opts": 60, "eigrp": 88, "ospf": 89, "ipip": 94, "pim": 103, "vrrp": 112, "l2tp": 115,
	"isis": 124, "sctp": 132, "udplite": 136, "igrp": 9, "ipv4": 4,
}

// service is a port name and the transports that it is registered for.
type service struct {
	port     uint16
	tcp, udp bool
}

// services are common names of the IANA service name registry, with the transports that usual systems list.
var services = map[string]service{
	"tcpmux": {1, true, false}, "echo": {7, true, true}, "discard": {9, true, true}, "systat": {11, true, false},
	"daytime": {13, true, true}, "netstat": {15, true, false}, "qotd": {17, true, false}, "chargen": {19, true, true},
	"ftp-data": {20, true, false}, "ftp": {21, true, false}, "ssh": {22, true, false}, "telnet": {23, true, false},
	"smtp": {25, true, false}, "time": {37, true, true}, "whois": {43, true, false}, "tacacs": {49, true, true},
	"domain": {53, true, true}, "bootps": {67, false, true}, "bootpc": {68, false, true}, "tftp": {69, false, true},
	"gopher": {70, true, false}, "finger": {79, true, false}, "http": {80, true, false}, "kerberos": {88, true, true},
	"pop3": {110, true, false}, "sunrpc": {111, true, true}, "auth": {113, true, false}, "nntp": {119, true, false},
	"ntp": {123, false, true}, "netbios-ns": {137, false, true}, "netbios-dgm": {138, false, true},
	"netbios-ssn": {139, true, false}, "imap2": {143, true, false}, "imap": {143, true, false}, "snmp": {161, true, true},
	"snmp-trap": {162, true, true}, "snmptrap": {162, true, true}, "xdmcp": {177, false, true}, "bgp": {179, true, false},
	"irc": {194, true, true}, "ldap": {389, true, true}, "https": {443, true, true},
	"microsoft-ds": {445, true, false}, "isakmp": {500, false, true}, "exec": {512, true, false}, "biff": {512, false, true},
	"login": {513, true, false}, "who": {513, false, true}, "shell": {514, true, false}, "syslog": {514, true, true},
	"printer": {515, true, false}, "route": {520, false, true}, "submission": {587, true, false}, "ipp": {631, true, false},
	"ldaps": {636, true, true}, "domain-s": {853, true, true}, "rsync": {873, true, false}, "ftps": {990, true, false},
	"telnets": {992, true, false}, "imaps": {993, true, false}, "pop3s": {995, true, false}, "socks": {1080, true, false},
	"openvpn": {1194, true, true}, "ms-sql-s": {1433, true, false}, "ms-sql-m": {1434, false, true},
	"l2f": {1701, false, true}, "l2tp": {1701, false, true}, "radius": {1812, true, true},
	"radius-acct": {1813, true, true}, "nfs": {2049, true, true}, "mysql": {3306, true, false},
	"rdp": {3389, true, true}, "svn": {3690, true, false}, "epmd": {4369, true, false}, "sip": {5060, true, true},
	"sip-tls": {5061, true, true}, "xmpp-client": {5222, true, false}, "mdns": {5353, false, true},
	"postgresql": {5432, true, false}, "amqp": {5672, true, false}, "x11": {6000, true, false},
	"redis": {6379, true, false}, "http-alt": {8080, true, false}, "vxlan": {4789, false, true},
	"ircs-u": {6697, true, false}, "git": {9418, true, false},
}
