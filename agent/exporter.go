package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"opentap/capture"
	"opentap/flow"
	"opentap/flow/export"
	"opentap/ledger"
	"opentap/packet"
	"opentap/want"
)

// Exporter meters points at all times and sends their flow records to a collector.
type Exporter struct {
	Name   string // in the node's status
	Points []string
	Filter string
	CA     string // PEM files, of transport tls; "" = the system's roots, and no certificate of our own
	Cert   string
	Key    string
	Export export.Config
}

// exporting is an Exporter at work.
type exporting struct {
	a   *Agent
	cfg Exporter
	x   *export.Exporter
}

func newExporting(a *Agent, cfg Exporter) (*exporting, error) {
	if cfg.Export.Transport == "tls" {
		host, _, err := net.SplitHostPort(cfg.Export.Address)
		if err != nil {
			return nil, err
		}
		c := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
		if cfg.CA != "" {
			pem, err := os.ReadFile(cfg.CA)
			if err != nil {
				return nil, err
			}
			c.RootCAs = x509.NewCertPool()
			if !c.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("%s holds no certificate", cfg.CA)
			}
		}
		if cfg.Cert != "" {
			pair, err := tls.LoadX509KeyPair(cfg.Cert, cfg.Key)
			if err != nil {
				return nil, err
			}
			c.Certificates = []tls.Certificate{pair}
		}
		cfg.Export.TLS = c
	}
	x, err := export.New(cfg.Export, a.log)
	if err != nil {
		return nil, err
	}
	return &exporting{a: a, cfg: cfg, x: x}, nil
}

// Times of an exporter.
const (
	retryExporter = 10 * time.Second // after a point failed
	tellExporter  = 10 * time.Second // how often the node's status follows
)

// run meters and exports until ctx ends; what was metered until then still goes out.
func (e *exporting) run(ctx context.Context) {
	sending, stop := context.WithCancel(context.WithoutCancel(ctx))
	var sender, meters sync.WaitGroup
	sender.Go(func() { e.x.Run(sending) })
	for _, point := range e.cfg.Points {
		meters.Go(func() { e.meter(ctx, point) })
	}
	var last export.Status
	for tick := time.NewTicker(tellExporter); ctx.Err() == nil; {
		select {
		case <-ctx.Done():
			tick.Stop()
		case <-tick.C:
			if s := e.x.Status(); s != last {
				e.tell(&last, &s)
				last = s
			}
		}
	}
	meters.Wait()
	stop()
	sender.Wait()
}

// tell has the operator know what goes wrong.
func (e *exporting) tell(last, s *export.Status) {
	text := ""
	switch {
	case s.LastError != "":
		text = fmt.Sprintf("exporter %s cannot send to %s: %s", e.cfg.Name, e.cfg.Export.Address, s.LastError)
	case s.Full > last.Full:
		text = fmt.Sprintf("exporter %s drops records: its queue is full (%d in all)", e.cfg.Name, s.Full)
	}
	e.a.trouble("exporter "+e.cfg.Name, text)
	e.a.link.InventoryChanged()
}

func (e *exporting) status() want.Exporter {
	s := e.x.Status()
	return want.Exporter{
		Name: e.cfg.Name, Protocol: e.cfg.Export.Version.String(), Transport: e.cfg.Export.Transport, Address: e.cfg.Export.Address,
		Points: e.cfg.Points, Connected: s.Connected, LastError: s.LastError, Messages: s.Messages, Records: s.Sent, Packets: s.Packets,
		Waiting: s.Waiting, Dropped: map[string]uint64{"queue_full": s.Full, "not_ipv4": s.Untakeable, "send_failed": s.Refused},
		LostPackets: s.Lost, Reconnects: s.Reconnects,
	}
}

// meter meters one point until ctx ends. What fails is tried again.
func (e *exporting) meter(ctx context.Context, point string) {
	for ctx.Err() == nil {
		err := e.attach(ctx, point)
		if ctx.Err() != nil {
			return
		}
		e.a.trouble("exporter "+e.cfg.Name+" "+point, fmt.Sprintf("exporter %s cannot meter %s: %s", e.cfg.Name, point, errText(err)))
		select {
		case <-ctx.Done():
		case <-time.After(retryExporter):
		}
	}
}

func (e *exporting) attach(ctx context.Context, point string) error {
	table, err := flow.New(e.a.cfg.Flow, e.x.Export)
	if err != nil {
		return err
	}
	att, err := e.a.engine.Attach(capture.Spec{Point: point, Filter: e.cfg.Filter, Promiscuous: true}, &exported{table: table})
	if err != nil {
		return err
	}
	awaitOpen(att)
	e.a.trouble("exporter "+e.cfg.Name+" "+point, "")
	select {
	case <-ctx.Done():
	case <-att.Done():
	}
	if err := att.Detach(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	table.Flush(flow.EndForced) // the table is ours now
	return att.Progress().Err
}

// exported is the consumer of an exporter's point. It belongs to the source's goroutine.
type exported struct{ table *flow.Table }

// Begin implements capture.Consumer.
func (c *exported) Begin() {}

// End implements capture.Consumer.
func (c *exported) End() {}

// Frame implements capture.Consumer.
func (c *exported) Frame(f *capture.Frame) capture.Verdict {
	c.table.Add(f.Parsed())
	return capture.Took
}

// Idle implements capture.Consumer.
func (c *exported) Idle(now packet.Timestamp, _ *ledger.Account) { c.table.Advance(now) }
