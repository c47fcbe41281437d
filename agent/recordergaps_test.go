package agent

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"opentap/internal/await"
	"opentap/pcap"
	"opentap/want"
)

// A capture from a recorder says what that left out and when it was away: in its status, and in the file.
func TestNetnsRecordedSaysItsBounds(t *testing.T) {
	needsRing(t)
	out, port := newSender(t)
	expr := fmt.Sprintf("udp port %d", port)
	h := newHost(t, func(c *Config) {
		c.Recorders = []Recorder{{Point: "lo", Filter: expr, Snap: 60, Bytes: 64 << 20}}
	})
	h.start()
	await.Until(t, "it records", func() bool { return h.recorderState("lo").Status.State == want.Running })
	from := time.Now().UTC()
	out.send(30)
	await.Until(t, "it has recorded", func() bool { return h.recorderState("lo").Status.Ledger.Captured == 30 })
	h.restart()
	await.Until(t, "it records again", func() bool { return h.recorderState("lo").Status.State == want.Running })
	out.send(10)
	await.Until(t, "it has recorded more", func() bool { return h.recorderState("lo").Status.Ledger.Captured == 40 })

	pk := asked(1, want.Packets, port)
	pk.Recorded, pk.Query.From, pk.Query.Filter, pk.Query.Snap = true, from, "", 0
	h.obey(1, pk)
	h.awaitState(pk.UID, want.Running)
	pk.StopAt = time.Now().UTC()
	h.obey(2, pk)
	st := h.awaitState(pk.UID, want.Stopped)
	if len(st.Gaps) == 0 || st.Gaps[0].To.IsZero() || !strings.Contains(st.Gaps[0].Reason, "not running") {
		t.Errorf("gaps %+v", st.Gaps)
	}
	for _, want := range []string{expr, "60 octets"} {
		if !strings.Contains(st.Reason, want) {
			t.Errorf("reason %q without %q", st.Reason, want)
		}
	}
	var first []byte
	for range 2 { // the same octets each time
		r, err := h.Open(context.Background(), pk.UID, want.OpenOptions{Format: want.PcapNG})
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := r.Write(context.Background(), &b, 0, -1); err != nil {
			t.Fatal(err)
		}
		r.Close()
		if first != nil && !bytes.Equal(first, b.Bytes()) {
			t.Error("another file the second time")
		}
		first = b.Bytes()
	}
	p, err := pcap.NewReader(bytes.NewReader(first))
	if err != nil {
		t.Fatal(err)
	}
	var k pcap.Packet
	n := 0
	for ; err == nil; n++ {
		err = p.Next(&k)
	}
	if err != io.EOF || n-1 != 40 {
		t.Errorf("%d packets, %v", n-1, err)
	}
	face := p.Interfaces()[0]
	if face.Filter != expr || face.SnapLen != 60 {
		t.Errorf("interface %+v", face)
	}
	for _, want := range []string{expr, "60 octets", "nothing was seen from"} {
		if !bytes.Contains(first, []byte(want)) && !bytes.Contains(first, []byte(strings.ReplaceAll(want, "\"", "\\\""))) {
			t.Errorf("the file says nothing of %q", want)
		}
	}
}
