package probing

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"opentap/fault"
	"opentap/packet"
	"opentap/want"
	"opentap/wire/probe"
)

// run is one probe at work.
type run struct {
	*place
	plan   probe.Plan
	socket *socket
	report want.ProbeReport
	closes bool // the host closes by itself what a SYN-ACK begins
	group  bool // several may answer one frame
}

// Run sends the frames of a probe, which probe.Fill has taken, and returns what became of them when all are answered or the time is up.
// It must be called on a thread in the device's network namespace. Errors are *fault.Error, or that of ctx.
func Run(ctx context.Context, q want.ProbeRun) (want.ProbeReport, error) {
	at, err := look(q.Device)
	if err != nil {
		return want.ProbeReport{}, err
	}
	r := &run{place: at, report: want.ProbeReport{
		Device: q.Device, Kind: q.Kind, Target: q.Target, Port: q.Port, VLAN: q.VLAN, Began: time.Now().UTC(), Answers: []want.ProbeAnswer{},
	}}
	if err := r.prepare(&q); err != nil {
		return r.report, err
	}
	if r.socket, err = open(at.index, r.plan.Src); err != nil {
		return r.report, err
	}
	defer r.socket.close()
	found, err := r.resolve(ctx, &q)
	if err != nil {
		return r.report, err
	}
	if !found {
		for n := range q.Count {
			r.report.Answers = append(r.report.Answers, want.ProbeAnswer{Number: n + 1, Sent: r.report.Began, Outcome: want.ProbeUnresolved})
		}
		tally(&r.report)
		return r.report, nil
	}
	free, err := r.reserve(&q)
	if err != nil {
		return r.report, err
	}
	defer free()
	if err := r.send(ctx, &q); err != nil {
		return r.report, err
	}
	tally(&r.report)
	return r.report, nil
}

// prepare decides what the frames have in common, but for who gets them.
func (r *run) prepare(q *want.ProbeRun) error {
	p := &r.plan
	*p = probe.Plan{
		Kind: q.Kind, SrcMAC: r.mac, Dst: q.Target, VLAN: q.VLAN, Priority: q.Priority, TTL: q.TTL, TOS: q.TOS, DontFragment: q.DontFragment,
		Port: q.Port, Payload: probe.Payload(*q.Size, q.Pattern),
	}
	var token [4]byte
	_, _ = rand.Read(token[:]) // never fails, crypto/rand
	p.Token = binary.NativeEndian.Uint32(token[:])
	if q.SourceMAC != "" {
		p.SrcMAC, _ = probe.ParseMAC(q.SourceMAC) // Fill has read it
	}
	if r.has(q.Target) {
		return fault.Field("target", "%s is the address of %s itself, and what is sent out of a device does not come to it", q.Target, r.name)
	}
	if slices.Contains(r.broadcasts(), q.Target) && !q.AllowGroup {
		return &fault.Error{Kind: fault.Invalid, Field: "target", Msg: q.Target.String() + " is everybody on the network of " + r.name, Hint: "allow_group (--allow-group) sends it all the same"}
	}
	if p.Src = q.Source; !p.Src.IsValid() {
		if p.Src = r.sourceFor(q.Target); !p.Src.IsValid() {
			family := "IPv4"
			if q.Target.Is6() {
				family = "IPv6"
			}
			return &fault.Error{Kind: fault.Invalid, Field: "source", Msg: r.name + " has no " + family + " address that frames to " + q.Target.String() + " could come from", Hint: "say which they shall have (--source); answers go there"}
		}
	}
	own := r.has(p.Src)
	if q.OwnOnly && (!own || p.SrcMAC != r.mac) {
		return &fault.Error{Kind: fault.Forbidden, Field: "source", Msg: "only an administrator may send frames from addresses that are not the device's own"}
	}
	if slices.Contains(r.broadcasts(), p.Src) {
		return fault.Field("source", "%s is not the address of one host: answers would go to many", p.Src)
	}
	r.closes = own && p.SrcMAC == r.mac && p.VLAN == 0 && !r.slave
	r.group = q.Target.IsMulticast() || slices.Contains(r.broadcasts(), q.Target) || q.Target == netip.AddrFrom4([4]byte{255, 255, 255, 255})
	all, link := p.Overhead()
	if r.report.FrameOctets = max(all+len(p.Payload), 60); all+len(p.Payload)-link > r.mtu {
		return fault.Field("size", "makes packets of %d octets, and %s takes %d: a probe is not fragmented", all+len(p.Payload)-link, r.name, r.mtu)
	}
	r.report.Source, r.report.SourceMAC = p.Src, macText(p.SrcMAC)
	return nil
}

func macText(m packet.MAC) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// send sends all frames and takes what answers.
func (r *run) send(ctx context.Context, q *want.ProbeRun) error {
	begin := time.Now()
	frame := make([]byte, 0, 2048)
	for n := range q.Count {
		due := begin.Add(time.Duration(n) * time.Duration(q.Interval))
		if err := r.take(ctx, due, false); err != nil {
			return err
		}
		frame = r.plan.Frame(frame[:0], n)
		sent := time.Now()
		if err := r.socket.send(frame); err != nil {
			if errors.Is(err, unix.EMSGSIZE) {
				return fault.Field("size", "makes a frame of %d octets, which %s does not take", len(frame), r.name)
			}
			return fault.New(fault.Unavailable, "frame %d cannot be sent out of %s: %v", n+1, r.name, err)
		}
		r.report.Answers = append(r.report.Answers, want.ProbeAnswer{Number: n + 1, Sent: sent, Outcome: want.ProbeSilent})
		r.report.Sent++
	}
	if err := r.take(ctx, time.Now().Add(time.Duration(q.Wait)), !r.group); err != nil {
		return err
	}
	for i := range r.report.Answers {
		r.report.Answers[i].Sent = r.report.Answers[i].Sent.UTC()
	}
	return nil
}

// take reads answers until a time; with early, or until all frames are answered.
func (r *run) take(ctx context.Context, until time.Time, early bool) error {
	var in packet.Parsed
	for {
		if early && !slices.ContainsFunc(r.report.Answers, func(a want.ProbeAnswer) bool { return a.Outcome == want.ProbeSilent }) {
			return nil
		}
		left := time.Until(until)
		if left <= 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		frame, at, err := r.socket.receive(left)
		if err != nil {
			return fault.New(fault.Unavailable, "answers cannot be taken from %s: %v", r.name, err)
		}
		if frame == nil {
			continue
		}
		now := time.Now()
		in.Decode(packet.LinkEthernet, frame, uint32(len(frame)))
		a, ok := r.plan.Read(frame, &in, len(r.report.Answers))
		if !ok {
			continue
		}
		note(&r.report, &a, func(x want.ProbeAnswer) float64 { return micros(x.Sent, at, now) })
		if a.Outcome == want.ProbeOpen && !r.closes {
			if err := r.socket.send(r.plan.Reset(nil, a.Number)); err != nil {
				return fault.New(fault.Unavailable, "what %s began cannot be ended: %v", a.From, err)
			}
		}
	}
}

// micros is the time from sent to at, the kernel's word, in tenths of microseconds; where the clock was set meanwhile, to now.
func micros(sent, at, now time.Time) float64 {
	d := at.Round(0).Sub(sent.Round(0)) // both by the clock on the wall
	if most := now.Sub(sent); d <= 0 || d > most {
		d = most
	}
	return math.Round(float64(d)/100) / 10
}
