package ifcount

import (
	"encoding/binary"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Offsets in struct rtnl_link_stats64, include/uapi/linux/if_link.h (Linux 6.1).
const (
	atRxPackets, atTxPackets, atRxBytes, atTxBytes = 0, 8, 16, 24
	atRxDropped, atTxDropped                       = 48, 56
	atRxMissed                                     = 128
	statsLeast                                     = atRxMissed + 8
)

const sizeofStatsMsg = 12 // struct if_stats_msg, include/uapi/linux/if_link.h

// statsRequest is struct if_stats_msg: every device, and of it only IFLA_STATS_LINK_64.
type statsRequest struct{}

// Len implements nl.NetlinkRequestData.
func (statsRequest) Len() int { return sizeofStatsMsg }

// Serialize implements nl.NetlinkRequestData.
func (statsRequest) Serialize() []byte {
	b := make([]byte, sizeofStatsMsg)
	binary.NativeEndian.PutUint32(b[8:], 1<<(statsLink64-1)) // filter_mask
	return b
}

const statsLink64 = 1 // IFLA_STATS_LINK_64

// ReadAll reads the totals of every device in the calling thread's network namespace, by interface index, in one question to
// the kernel (RTM_GETSTATS, Linux 4.7). Safe for concurrent use.
func ReadAll() (map[int]Totals, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETSTATS, unix.NLM_F_DUMP)
	req.AddData(statsRequest{})
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWSTATS)
	if err != nil {
		return nil, fmt.Errorf("read counters of all devices: %w", err)
	}
	out := make(map[int]Totals, len(msgs))
	for _, m := range msgs {
		if index, t, ok := totalsOf(m); ok {
			out[index] = t
		}
	}
	return out, nil
}

// totalsOf reads the body of an RTM_NEWSTATS message: struct if_stats_msg, then attributes.
func totalsOf(m []byte) (index int, t Totals, ok bool) {
	if len(m) < sizeofStatsMsg {
		return 0, t, false
	}
	index = int(binary.NativeEndian.Uint32(m[4:]))
	attrs, err := nl.ParseRouteAttr(m[sizeofStatsMsg:])
	if err != nil {
		return 0, t, false
	}
	for _, a := range attrs {
		if a.Attr.Type != statsLink64 || len(a.Value) < statsLeast {
			continue
		}
		at := func(off int) uint64 { return binary.NativeEndian.Uint64(a.Value[off:]) }
		return index, Totals{at(atRxPackets), at(atTxPackets), at(atRxBytes), at(atTxBytes), at(atRxDropped) + at(atTxDropped) + at(atRxMissed)}, true
	}
	return 0, t, false
}
