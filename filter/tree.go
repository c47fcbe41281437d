package filter

// Expr is a parsed filter. It is immutable and safe for concurrent use.
type Expr struct {
	Root Node   // nil: everything matches
	Text string // what the user wrote
}

// Node is one condition of the tree: *And, *Or, *Not, *Host, *MAC, *Port, *Proto, *Cast, *VLAN, *MPLS, *PPPoE, *Geneve,
// *Inner, *Bound, *LLC, *OSI or *Relation.
type Node interface{ node() }

// And holds when all terms hold. Terms are tested in order.
type And struct{ Terms []Node }

// Or holds when one of the terms holds. Terms are tested in order.
type Or struct{ Terms []Node }

// Not holds when X does not.
type Not struct{ X Node }

// Dir says which of the two ends of a packet is meant.
type Dir uint8

// Directions. DirEither is what no direction, and "src or dst", mean.
const (
	DirEither Dir = iota
	DirSrc
	DirDst
	DirBoth // "src and dst"
)

// Host is an IPv4 or IPv6 address or network.
type Host struct {
	Pos   int
	Proto Protocol // Any, IP, ARP, RARP, IP6
	Dir   Dir
	V6    bool
	Addr  [16]byte // IPv4: the first four octets
	Mask  [16]byte // likewise
}

// MAC is an Ethernet address.
type MAC struct {
	Pos  int
	Dir  Dir
	Addr [6]byte
}

// Port is a transport port or a range of them, of TCP, UDP and SCTP, or of one of these.
type Port struct {
	Pos    int
	Proto  Protocol // Any, TCP, UDP, SCTP
	Dir    Dir
	Lo, Hi uint16 // inclusive, Lo ≤ Hi
	Range  bool   // written as a range, even if of one port
}

// Layer says where a protocol number stands.
type Layer uint8

// Layers of Proto.
const (
	LayerAnyIP Layer = iota // protocol of IPv4, or next header of IPv6
	LayerLink               // EtherType, or LLC SAP below 1501
	LayerIPv4
	LayerIPv6
)

// Proto is a protocol number at a layer.
type Proto struct {
	Pos   int
	Layer Layer
	Num   uint32
}

// Cast is a broadcast or multicast destination.
type Cast struct {
	Pos       int
	Proto     Protocol // Link, IP, IP6
	Multicast bool     // else broadcast; broadcast is Link only
}

// VLAN is an 802.1Q or 802.1ad tag. A VLAN to the right of another means the next tag inwards.
type VLAN struct {
	Pos int
	IDs []VLANRange // one of these; none: any id. In order as written
}

// VLANRange is VLAN ids from Lo to Hi, inclusive.
type VLANRange struct{ Lo, Hi uint16 }

// MPLS is a label stack entry. An MPLS to the right of another means the next entry inwards.
type MPLS struct {
	Pos      int
	HasLabel bool
	Label    uint32
}

// PPPoE is a PPPoE session or, if Discovery, a discovery frame (RFC 2516).
type PPPoE struct {
	Pos        int
	Discovery  bool
	HasSession bool
	Session    uint16
}

// Geneve is a Geneve tunnel (RFC 8926) on its UDP port. As in libpcap, conditions to the right of it mean what the tunnel
// carries.
type Geneve struct {
	Pos    int
	HasVNI bool
	VNI    uint32
}

// Inner holds if X does for the payload of the frame's outermost tunnel: VXLAN, Geneve, GRE or GTP-U.
type Inner struct {
	Pos int
	X   Node
}

// Bound is the direction of a packet at the capture point.
type Bound struct {
	Pos int
	Out bool
}

// RelOp compares two unsigned 32-bit values.
type RelOp uint8

// Relations.
const (
	RelEQ RelOp = iota
	RelNE
	RelGT
	RelGE
	RelLT
	RelLE
)

// Relation compares two computed values.
type Relation struct {
	Pos  int
	Op   RelOp
	L, R Arith
}

// Arith computes an unsigned 32-bit value: *Const, *Len, *Load, *Neg or *Binary.
type Arith interface{ arith() }

// Const is a number.
type Const struct{ V uint32 }

// Len is the length of the frame on the wire, in octets.
type Len struct{}

// Load is Size octets (1, 2 or 4) of the packet in network order, at Index from the start of the header of Proto.
type Load struct {
	Pos   int
	Proto Protocol
	Index Arith
	Size  uint8
}

// Neg is two's complement.
type Neg struct{ X Arith }

// ArithOp is an arithmetic operation modulo 2^32.
type ArithOp uint8

// Operations. Division and modulus by zero reject the packet; a shift by more than 31 bits leaves 0.
const (
	OpAdd ArithOp = iota
	OpSub
	OpMul
	OpDiv
	OpMod
	OpAnd
	OpOr
	OpXor
	OpShl
	OpShr
)

// Binary combines two values.
type Binary struct {
	Op   ArithOp
	L, R Arith
}

func (*And) node()      {}
func (*Or) node()       {}
func (*Not) node()      {}
func (*Host) node()     {}
func (*MAC) node()      {}
func (*Port) node()     {}
func (*Proto) node()    {}
func (*Cast) node()     {}
func (*VLAN) node()     {}
func (*MPLS) node()     {}
func (*PPPoE) node()    {}
func (*Relation) node() {}
func (*Geneve) node()   {}
func (*Inner) node()    {}
func (*Bound) node()    {}
func (*LLC) node()      {}
func (*OSI) node()      {}

func (*Const) arith()  {}
func (*Len) arith()    {}
func (*Load) arith()   {}
func (*Neg) arith()    {}
func (*Binary) arith() {}
