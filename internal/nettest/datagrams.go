package nettest

import (
	"errors"
	"io"
	"os"
	"slices"
	"testing"

	"opentap/packet"
	"opentap/pcap"
)

// Datagrams returns the UDP payloads of a capture file of an Ethernet link.
func Datagrams(tb testing.TB, path string) (out [][]byte) {
	tb.Helper()
	f, err := os.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	r, err := pcap.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	for p := new(pcap.Packet); ; {
		err := r.Next(p)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			tb.Fatal(err)
		}
		var parsed packet.Parsed
		parsed.Decode(packet.LinkEthernet, p.Data, p.OrigLen)
		out = append(out, slices.Clone(p.Data[parsed.Payload:]))
	}
}
