package export

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"opentap/internal/await"
	"opentap/internal/nettest"
	"opentap/packet"
	"opentap/pcap"
	"opentap/wire/netflow"
)

// keyPair writes a certificate for "collector" and its key as PEM, and returns who trusts it.
func keyPair(t *testing.T, dir string) (cert, key string, roots *x509.CertPool) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"collector"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	write := func(name, kind string, b []byte) string {
		path, text := filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b})
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert, key = write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", private)
	text, err := os.ReadFile(cert)
	if err != nil || !roots.AppendCertsFromPEM(text) {
		t.Fatal("the certificate does not read back", err)
	}
	return cert, key, roots
}

// TestForeignTLS sends IPFIX to openssl, which is killed and started again, and has tshark read what each session received: each
// begins with its templates and with sequence number 0, has no gap that tshark sees, and together they hold every record that
// the exporter says it sent. What did not fit the queue in between is counted.
func TestForeignTLS(t *testing.T) {
	for _, tool := range []string{"openssl", "tshark"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s", tool)
		}
	}
	dir := t.TempDir()
	cert, key, roots := keyPair(t, dir)
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := probe.Addr().String()
	_ = probe.Close()
	_, port, _ := net.SplitHostPort(address)

	const first, queue, tooMany = 300, 500, 70
	x := exporter(t, Config{
		Version: netflow.IPFIX, Transport: "tls", Address: address, TLS: &tls.Config{RootCAs: roots, ServerName: "collector"},
		Queue: queue, Linger: 10 * time.Millisecond,
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); x.Run(ctx) }()
	defer func() { cancel(); <-done }()
	give := func(n int) {
		for _, r := range records(n, true) {
			x.Export(&r)
		}
	}

	give(first)
	one := foreignSession(t, x, port, cert, key, filepath.Join(dir, "one"), 0)
	give(queue + tooMany) // nobody is there: as many wait as there is room for
	if s := x.Status(); s.Full != tooMany || s.Waiting != queue || s.Sent != first {
		t.Fatalf("while nobody was there: %+v", s)
	}
	two := foreignSession(t, x, port, cert, key, filepath.Join(dir, "two"), len(one))
	s := wantIdentity(t, x, first+queue+tooMany)
	if s.Sent != first+queue || s.Reconnects != 1 {
		t.Errorf("%+v", s)
	}
	// Every second record has both directions, and is two here.
	flows1, packets1 := tsharkReads(t, one)
	flows2, packets2 := tsharkReads(t, two)
	if flows1 != first*3/2 || flows2 != queue*3/2 || packets1+packets2 != s.Packets {
		t.Errorf("tshark reads %d records of the first session, and %d, with %d packets; %d were sent", flows1, flows2, packets1+packets2, s.Packets)
	}
}

// foreignSession has openssl take one connection and write what it says to a file, until all that waits was sent and is there;
// then it is killed. before is what earlier sessions got. Octets.
func foreignSession(t *testing.T, x *Exporter, port, cert, key, path string, before int) []byte {
	t.Helper()
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	server := exec.Command("openssl", "s_server", "-quiet", "-accept", "127.0.0.1:"+port, "-cert", cert, "-key", key)
	server.Stdout = out
	stdin, err := server.StdinPipe() // kept open: it ends with its input
	if err == nil {
		err = server.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	defer func() { _ = server.Process.Kill(); _ = server.Wait() }()
	var b []byte
	await.Until(t, "openssl has written what was sent", func() bool {
		s := x.Status()
		b, err = os.ReadFile(path)
		return err == nil && s.Waiting == 0 && s.Sent > 0 && uint64(before+len(b)) == s.Octets
	})
	_ = server.Process.Kill()
	await.Until(t, "the exporter hears that the collector has gone", func() bool { return !x.Status().Connected })
	return b
}

// tsharkReads has tshark dissect a stream of IPFIX, in segments that do not end where messages do, and returns the records and
// packets that it finds. It fails the test for what tshark objects to.
func tsharkReads(t *testing.T, stream []byte) (records, packets uint64) {
	t.Helper()
	file := pcap.AppendClassicHeader(nil, packet.LinkEthernet, 65535, true)
	now := packet.TimestampOf(time.Now())
	for seq := uint32(1); len(stream) > 0; {
		n := min(len(stream), 1000)
		f := nettest.Packet{
			Src: netip.AddrFrom4([4]byte{192, 0, 2, 1}), Dst: netip.AddrFrom4([4]byte{192, 0, 2, 2}), Proto: nettest.TCP,
			SrcPort: 40000, DstPort: 4739, TCPFlags: 0x18, Seq: seq, Ack: 1, Payload: stream[:n],
		}.Bytes()
		file = pcap.AppendClassicPacket(file, now, uint32(len(f)), f, true)
		seq, stream = seq+uint32(n), stream[n:]
	}
	path := filepath.Join(t.TempDir(), "stream.pcap")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("tshark", "-r", path, "-d", "tcp.port==4739,cflow", "-T", "fields", "-E", "occurrence=a",
		"-e", "cflow.packets", "-e", "_ws.malformed", "-e", "_ws.expert.message", "-e", "cflow.sequence").Output()
	if err != nil {
		t.Fatal(err)
	}
	sequence := ""
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimRight(line, "\n"), "\t")
		if f[1] != "" || strings.Contains(strings.ToLower(f[2]), "malformed") || strings.Contains(f[2], "No template") || strings.Contains(f[2], "sequence") {
			t.Errorf("tshark says %q", f[1:])
		}
		for _, n := range strings.Split(f[0], ",") {
			if n == "" {
				continue
			}
			v, err := strconv.ParseUint(n, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			records, packets = records+1, packets+v
		}
		if sequence == "" {
			sequence, _, _ = strings.Cut(f[3], ",")
		}
	}
	if sequence != "0" {
		t.Errorf("the stream begins with sequence number %q", sequence)
	}
	return records, packets
}
