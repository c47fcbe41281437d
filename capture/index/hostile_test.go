package index

import "testing"

// TestRepeatedGroup: a bucket whose entries are all of one coarse group costs its entries, not their product with the group.
func TestRepeatedGroup(t *testing.T) {
	h := partHead{blocks: maxBlocks, buckets: 1, groupBits: 16, prefixBits: 1}
	b := make([]byte, 1<<20)
	for i := range b {
		b[i] = 0xff // no group further, value 1
	}
	n := uint32(8 * (len(b) - 4) / 2)
	le.PutUint32(b[len(b)-4:], n)
	p := Part{head: h}
	m := p.empty()
	if err := h.decode(b, 1, m); err != nil {
		t.Fatal(err)
	}
	for i, w := range m {
		if w != ^uint64(0) {
			t.Fatalf("blocks from %d on: %#x", 64*i, w)
		}
	}
}
