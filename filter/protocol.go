package filter

// Protocol is a protocol word of the language.
type Protocol uint8

// Protocols that stand as a word of their own. Any is "none given".
const (
	Any Protocol = iota
	Link
	IP
	IP6
	ARP
	RARP
	TCP
	UDP
	SCTP
	ICMP
	ICMP6
	IGMP
	IGRP
	PIM
	VRRP
	CARP
	AH
	ESP
	ATALK
	AARP
	DECNET
	LAT
	SCA
	MOPRC
	MOPDL
	ISO
	STP
	IPX
	NETBEUI
)

// protocolInfo says what the bare word means and what may be done with it.
type protocolInfo struct {
	word  string
	layer Layer
	num   uint32
	index bool // word[...] reads octets of its header
}

// protocols is indexed by Protocol. EtherTypes and SAPs: IEEE 802; protocol numbers: IANA.
var protocols = [...]protocolInfo{
	Any:     {word: ""},
	Link:    {word: "ether", index: true},
	IP:      {"ip", LayerLink, 0x0800, true},
	IP6:     {"ip6", LayerLink, 0x86dd, true},
	ARP:     {"arp", LayerLink, 0x0806, true},
	RARP:    {"rarp", LayerLink, 0x8035, true},
	TCP:     {"tcp", LayerAnyIP, 6, true},
	UDP:     {"udp", LayerAnyIP, 17, true},
	SCTP:    {"sctp", LayerAnyIP, 132, true},
	ICMP:    {"icmp", LayerIPv4, 1, true},
	ICMP6:   {"icmp6", LayerIPv6, 58, true},
	IGMP:    {"igmp", LayerIPv4, 2, true},
	IGRP:    {"igrp", LayerIPv4, 9, true},
	PIM:     {"pim", LayerAnyIP, 103, true},
	VRRP:    {"vrrp", LayerIPv4, 112, true},
	CARP:    {"carp", LayerIPv4, 112, true},
	AH:      {"ah", LayerAnyIP, 51, false},
	ESP:     {"esp", LayerAnyIP, 50, false},
	ATALK:   {"atalk", LayerLink, 0x809b, true},
	AARP:    {"aarp", LayerLink, 0x80f3, false},
	DECNET:  {"decnet", LayerLink, 0x6003, true},
	LAT:     {"lat", LayerLink, 0x6004, true},
	SCA:     {"sca", LayerLink, 0x6007, true},
	MOPRC:   {"moprc", LayerLink, 0x6002, true},
	MOPDL:   {"mopdl", LayerLink, 0x6001, true},
	ISO:     {"iso", LayerLink, 0xfe, false},
	STP:     {"stp", LayerLink, 0x42, false},
	IPX:     {"ipx", LayerLink, 0xe0, false},
	NETBEUI: {"netbeui", LayerLink, 0xf0, false},
}

// String returns the word, "" for Any.
func (p Protocol) String() string { return protocols[p].word }

// Meaning returns the layer and number that the bare word tests. Any and Link have none.
func (p Protocol) Meaning() (l Layer, num uint32, ok bool) {
	i := protocols[p]
	return i.layer, i.num, p != Any && p != Link
}
