package ring

import "sync"

// Group is a fan of rings on one interface: the kernel gives each packet to just one of them, all packets of a flow, in both
// directions, to the same one, and to another only while that one is nearly full. Rings become members by Config.Group, and
// leave with Close. The zero value is a group without members; it is safe for concurrent use.
type Group struct {
	mu      sync.Mutex
	id      int // the kernel's, while there are members
	members int
}
