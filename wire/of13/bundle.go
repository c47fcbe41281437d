package of13

import (
	"encoding/binary"
	"fmt"
)

// Bundles for OpenFlow 1.3 are ONF extension 230: messages that take effect together or not at all.
const (
	onf           = 0x4f4e4600
	bundleControl = 2300
	bundleAdd     = 2301
)

// Kinds of bundle control.
const (
	BundleOpen uint16 = iota
	BundleOpened
	BundleClose
	BundleClosed
	BundleCommit
	BundleCommitted
	BundleDiscard
	BundleDiscarded
)

// Flags of bundles.
const (
	BundleAtomic  = 1 << 0 // all or nothing, also for packets
	BundleOrdered = 1 << 1
)

// BundleControl makes the message that opens, commits or discards a bundle.
func BundleControl(id uint32, kind, flags uint16) *Experimenter {
	b := binary.BigEndian.AppendUint32(nil, id)
	b = binary.BigEndian.AppendUint16(b, kind)
	return &Experimenter{ID: onf, Kind: bundleControl, Data: binary.BigEndian.AppendUint16(b, flags)}
}

// BundleAdd makes the message that puts m into a bundle. xid is that of m, and of the message that carries it.
func BundleAdd(id uint32, flags uint16, xid uint32, m Message) (*Experimenter, error) {
	b := binary.BigEndian.AppendUint32(nil, id)
	b = binary.BigEndian.AppendUint16(append(b, 0, 0), flags)
	b, err := Append(b, xid, m)
	if err == nil && len(b)+16 > MaxMessage {
		err = fmt.Errorf("encode %s in a bundle: too long", m.Type())
	}
	return &Experimenter{ID: onf, Kind: bundleAdd, Data: b}, err
}

// BundleReply reads a bundle control message; ok is false for anything else.
func BundleReply(m *Experimenter) (id uint32, kind uint16, ok bool) {
	if m.ID != onf || m.Kind != bundleControl || len(m.Data) < 8 {
		return 0, 0, false
	}
	return binary.BigEndian.Uint32(m.Data), binary.BigEndian.Uint16(m.Data[4:]), true
}
