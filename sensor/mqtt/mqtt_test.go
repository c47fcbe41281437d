package mqtt

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"opentap/fault"
	"opentap/internal/await"
	"opentap/sensor/sensortest"
)

func TestValueOf(t *testing.T) {
	for _, c := range []struct {
		payload, field string
		want           float64
		problem        string
	}{
		{"21.5", "", 21.5, ""},
		{" -3e2\n", "", -300, ""},
		{"on", "", 1, ""},
		{"OFF", "", 0, ""},
		{`{"temperature": 21.25}`, "temperature", 21.25, ""},
		{`{"a": {"b": ["x", {"c": "7"}]}}`, "a.b.1.c", 7, ""},
		{`{"open": true}`, "open", 1, ""},
		{`[1, 2]`, "1", 2, ""},
		{"", "", 0, "no number"},
		{"NaN", "", 0, "no number"},
		{"21,5", "", 0, "no number"},
		{"21.5", "temperature", 0, "no temperature"},
		{`{"a": {}}`, "a", 0, "no number"},
		{`{"a": null}`, "a", 0, "no number"},
		{`{"a": [1]}`, "a.1", 0, "no a.1"},
		{`{"a": [1]}`, "a.-1", 0, "no a.-1"},
		{`{"a": 1`, "a", 0, "not JSON"},
		{strings.Repeat("9", maxMessage+1), "", 0, "octets"},
	} {
		got, err := valueOf([]byte(c.payload), c.field)
		if c.problem == "" && (err != nil || got != c.want) || c.problem != "" && (err == nil || !strings.Contains(err.Error(), c.problem)) {
			t.Errorf("valueOf(%.40q, %q) = %v, %v; want %v %s", c.payload, c.field, got, err, c.want, c.problem)
		}
	}
}

func FuzzValueOf(f *testing.F) {
	f.Add([]byte(`{"a":[1,{"b":"2"}]}`), "a.1.b")
	f.Add([]byte("1e999"), "")
	f.Fuzz(func(t *testing.T, payload []byte, field string) {
		if v, err := valueOf(payload, field); err == nil && (v != v || v-v != 0) {
			t.Errorf("%q is %v", payload, v)
		}
	})
}

func TestCheck(t *testing.T) {
	good := []Topic{{Topic: "a", Point: "a"}}
	for want, c := range map[string]Config{
		"url":         {URL: "broker", Topics: good},
		"none":        {URL: "tcp://b:1"},
		"keys":        {URL: "tcp://me:secret@b:1", Topics: good},
		"wildcards":   {URL: "tcp://b:1", Topics: []Topic{{Topic: "a/#", Point: "a"}}},
		"already":     {URL: "tcp://b:1", Topics: append(good, good...)},
		"both needed": {URL: "tcp://b:1", Topics: []Topic{{Topic: "a"}}},
	} {
		if _, err := New(c, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: %v, want %s", c, err, want)
		}
	}
}

// broker is a mosquitto that knows one user.
type broker struct {
	t       *testing.T
	dir     string
	address string // host:port
	roots   *x509.CertPool
	cmd     *exec.Cmd
}

func newBroker(t *testing.T, secure bool) *broker {
	t.Helper()
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin")
	for _, p := range []string{"mosquitto", "mosquitto_passwd"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("needs the program %s", p)
		}
	}
	b := &broker{t: t, dir: t.TempDir()}
	if err := os.Chmod(b.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.address = l.Addr().String()
	l.Close()
	if out, err := exec.Command("mosquitto_passwd", "-b", "-c", b.file("users"), "tap", "secret").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, port, _ := net.SplitHostPort(b.address)
	conf := fmt.Sprintf("listener %s 127.0.0.1\nallow_anonymous false\npassword_file %s\n", port, b.file("users"))
	if os.Getuid() == 0 {
		conf += "user root\n"
	}
	if secure {
		b.certify()
		conf += fmt.Sprintf("certfile %s\nkeyfile %s\n", b.file("cert"), b.file("key"))
	}
	if err := os.WriteFile(b.file("conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	b.start()
	t.Cleanup(b.stop)
	return b
}

func (b *broker) file(name string) string { return filepath.Join(b.dir, name) }

func (b *broker) certify() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "broker"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		b.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		b.t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert": {Type: "CERTIFICATE", Bytes: der}, "key": {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(b.file(name), pem.EncodeToMemory(block), 0o600); err != nil {
			b.t.Fatal(err)
		}
	}
	b.roots = x509.NewCertPool()
	if parsed, err := x509.ParseCertificate(der); err == nil {
		b.roots.AddCert(parsed)
	}
}

func (b *broker) start() {
	b.t.Helper()
	var out bytes.Buffer
	b.cmd = exec.Command("mosquitto", "-c", b.file("conf"))
	b.cmd.Stdout, b.cmd.Stderr = &out, &out
	if err := b.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	await.Until(b.t, "the broker listens", func() bool {
		c, err := net.Dial("tcp", b.address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func (b *broker) stop() {
	if b.cmd != nil {
		_ = b.cmd.Process.Kill()
		_ = b.cmd.Wait()
		b.cmd = nil
	}
}

func (b *broker) url() string {
	if b.roots != nil {
		return "tls://" + b.address
	}
	return "tcp://" + b.address
}

// publish publishes as another client would.
func (b *broker) publish(topic, payload string, retained bool) {
	b.t.Helper()
	o := paho.NewClientOptions().AddBroker(b.url()).SetUsername("tap").SetPassword("secret").SetClientID("publisher").SetTLSConfig(&tls.Config{RootCAs: b.roots})
	c := paho.NewClient(o)
	for _, step := range []func() paho.Token{c.Connect, func() paho.Token { return c.Publish(topic, 1, retained, payload) }} {
		if tok := step(); !tok.WaitTimeout(10*time.Second) || tok.Error() != nil {
			b.t.Fatalf("publish: %v", tok.Error())
		}
	}
	c.Disconnect(100)
}

func TestSource(t *testing.T) {
	b := newBroker(t, false)
	b.publish("room/kept", "17", true)
	s := sensortest.Start(t, New, Config{URL: b.url(), ClientID: "opentap", Username: "tap", Password: "secret", Topics: []Topic{
		{Topic: "room/plain", Point: "plain", Quantity: "temperature", Unit: "Cel"},
		{Topic: "room/json", Point: "json", Field: "t.0"},
		{Topic: "room/json", Point: "json2", Field: "h"},
		{Topic: "room/kept", Point: "kept"},
		{Topic: "room/kept", Point: "kept2", Retained: true},
		{Topic: "room/old", Point: "old", MaxAge: time.Nanosecond},
	}})
	await.Until(t, "connected", func() bool { return sensortest.Reads(t, s, "plain") == "nothing was published yet" })
	b.publish("room/plain", "21.5", false)
	b.publish("room/json", `{"t": [1.5], "h": "40"}`, false)
	b.publish("room/old", "1", false)
	for name, want := range map[string]string{
		"plain": "21.5", "json": "1.5", "json2": "40", "kept": "the broker has only a message from before", "kept2": "17", "old": "nothing was published for 0s",
	} {
		await.Until(t, name+" is "+want, func() bool { return sensortest.Reads(t, s, name) == want })
	}
	b.publish("room/json", `{"t": `, false)
	await.Until(t, "bad JSON is said", func() bool { return sensortest.Reads(t, s, "json") == "the message is not JSON" })
	b.publish("room/json", `{"t": [2]}`, false)
	await.Until(t, "good JSON counts again", func() bool { return sensortest.Reads(t, s, "json") == "2" })
	await.Until(t, "what lacks is said", func() bool { return sensortest.Reads(t, s, "json2") == "the message has no h" })

	points, err := s.Points(t.Context())
	if err != nil || len(points) != 6 || points[5].Name != "plain" || points[5].Unit != "Cel" || !points[5].Present || points[4].Present {
		t.Errorf("points: %v, %+v", err, points)
	}
	if _, err := s.Read(t.Context(), "none"); !fault.Is(err, fault.NotFound) {
		t.Errorf("a sensor that never was: %v", err)
	}

	b.stop()
	await.Until(t, "a broker that is away is a gap", func() bool { return strings.Contains(sensortest.Reads(t, s, "plain"), "cannot be used") })
	b.start()
	await.Until(t, "it is found again", func() bool { return !strings.Contains(sensortest.Reads(t, s, "plain"), "cannot be used") })
	b.publish("room/plain", "22", false)
	await.Until(t, "and read again", func() bool { return sensortest.Reads(t, s, "plain") == "22" })
}

func TestCredentialsAndTLS(t *testing.T) {
	b := newBroker(t, true)
	topics := []Topic{{Topic: "x", Point: "x"}}
	for want, cfg := range map[string]Config{
		"nothing was published yet": {Username: "tap", Password: "secret", TLS: &tls.Config{RootCAs: b.roots}},
		"not Authorized":            {Username: "tap", Password: "wrong", TLS: &tls.Config{RootCAs: b.roots}},
		"certificate":               {Username: "tap", Password: "secret", TLS: &tls.Config{RootCAs: x509.NewCertPool()}},
	} {
		cfg.URL, cfg.ClientID, cfg.Topics = b.url(), want[:3], topics
		s := sensortest.Start(t, New, cfg)
		await.Until(t, want, func() bool {
			got := sensortest.Reads(t, s, "x")
			return strings.Contains(strings.ToLower(got), strings.ToLower(want)) && !strings.Contains(got, "secret")
		})
	}
}
