package ifcount

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"opentap/fault"
	"opentap/netdev"
	"opentap/packet"
)

// kernelOrder is where struct rtnl_link_stats64 has each of its 64-bit fields: an index into Stats.fields.
var kernelOrder = [...]int{
	1, 7, 0, 6, 2, 8, 3, 9, // rx/tx packets, bytes, errors, dropped
	5, 11, // multicast, collisions
	12, 4, 13, 14, 15, 16, // rx length, over, crc, frame, fifo, missed
	17, 10, 18, 19, 20, // tx aborted, carrier, fifo, heartbeat, window
	21, 22, 23, 24, // rx/tx compressed, nohandler, otherhost
}

// Read reads the counters of the named device in the calling thread's network namespace, by one rtnetlink question. A
// device that is not there is a *fault.Error of kind NotFound. Safe for concurrent use.
func Read(name string) (Row, error) {
	if name == "" || len(name) >= unix.IFNAMSIZ || strings.IndexByte(name, 0) >= 0 {
		return Row{}, fault.New(fault.NotFound, "no network device %q", name)
	}
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	switch {
	case errors.Is(err, unix.ENODEV):
		return Row{}, fault.New(fault.NotFound, "no network device %q", name)
	case err != nil:
		return Row{}, fmt.Errorf("read counters of %s: %w", name, err)
	case len(msgs) != 1:
		return Row{}, fmt.Errorf("read counters of %s: %d answers, want 1", name, len(msgs))
	}
	r := Row{Time: packet.TimestampOf(time.Now()), Point: name}
	if err := r.fill(msgs[0]); err != nil {
		return Row{}, fmt.Errorf("read counters of %s: %w", name, err)
	}
	r.SpeedBPS = netdev.SpeedBPS(name)
	return r, nil
}

// operUp and operUnknown are IF_OPER_UP and IF_OPER_UNKNOWN of include/uapi/linux/if.h (RFC 2863 ifOperStatus).
const operUnknown, operUp = 0, 6

// fill reads the body of an RTM_NEWLINK message, rtnetlink(7): struct ifinfomsg, then attributes.
func (r *Row) fill(msg []byte) error {
	if len(msg) < unix.SizeofIfInfomsg {
		return fmt.Errorf("a message of %d octets is too short", len(msg))
	}
	info := nl.DeserializeIfInfomsg(msg)
	r.IfIndex = uint32(info.Index)
	r.Admin = info.Flags&unix.IFF_UP != 0
	attrs, err := nl.ParseRouteAttr(msg[unix.SizeofIfInfomsg:])
	if err != nil {
		return fmt.Errorf("parse attributes: %w", err)
	}
	oper, found := byte(operUnknown), false
	fields := r.fields()
	for _, a := range attrs {
		v := a.Value
		switch a.Attr.Type {
		case unix.IFLA_STATS64:
			for i, f := range kernelOrder {
				if len(v) < 8*(i+1) { // an older kernel: the fields at the end are missing
					break
				}
				*fields[f] = binary.NativeEndian.Uint64(v[8*i:])
			}
			found = true
		case unix.IFLA_OPERSTATE:
			if len(v) > 0 {
				oper = v[0]
			}
		case unix.IFLA_CARRIER:
			r.Carrier = len(v) > 0 && v[0] != 0
		case unix.IFLA_CARRIER_CHANGES:
			r.CarrierChanges = uint64(u32(v))
		case unix.IFLA_CARRIER_UP_COUNT:
			r.CarrierUp = uint64(u32(v))
		case unix.IFLA_CARRIER_DOWN_COUNT:
			r.CarrierDown = uint64(u32(v))
		}
	}
	if !found {
		return errors.New("the kernel gave no 64-bit counters")
	}
	r.Up = oper == operUp || (oper == operUnknown && r.Admin)
	return nil
}

func u32(v []byte) uint32 {
	if len(v) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(v)
}
