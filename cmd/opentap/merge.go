package main

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"iter"
	"os"

	"opentap/packet"
	"opentap/pcap"
	"opentap/want"
)

// errEnough ends a run of packets that nobody wants more of.
var errEnough = errors.New("enough")

// stream answers from recordings and files together, packet by packet.
func (q *queryRun) stream(ctx context.Context, dst io.Writer) error {
	var runs []pcap.Source
	var open []*fileRun
	for _, s := range q.sources {
		if s.dir == "" {
			r, err := q.openFile(s)
			if err != nil {
				return err
			}
			defer r.close()
			runs, open = append(runs, r), append(open, r)
			continue
		}
		w := q.window
		w.MaxPackets = 0
		p, err := q.newPlan([]querySource{s}, w)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		defer q.note(p)
		next, stop := iter.Pull2(func(yield func(*pcap.Packet, error) bool) {
			err := p.Each(ctx, func(k *pcap.Packet) error {
				if !yield(k, nil) {
					return errEnough
				}
				return nil
			})
			if err != nil && !errors.Is(err, errEnough) {
				yield(nil, err)
			}
		})
		defer stop()
		runs, open = append(runs, pulled(next)), append(open, nil)
	}
	out, err := newMergeWriter(q, dst)
	if err != nil {
		return err
	}
	m := pcap.Merge(runs...)
	var twins twinFinder
	if q.dedup != "" {
		twins = twinFinder{within: packet.Timestamp(q.within), seed: maphash.MakeSeed(), seen: make(map[uint64][]*twin)}
	}
	var k pcap.Packet
	for n := 0; ; n++ {
		if n&0xfff == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		err := m.Next(&k)
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return out.end()
		}
		if err != nil {
			var at *pcap.SourceError
			if errors.As(err, &at) {
				err = fmt.Errorf("%s: %w", q.sources[at.Source].name, at.Err)
			}
			return err
		}
		src := m.Source()
		face := q.sources[src].face
		if r := open[src]; r != nil {
			face = r.face(k.Interface)
		}
		at, err := out.place(src, k.Interface, face)
		if err != nil {
			return fmt.Errorf("write %s: %w", q.file, err)
		}
		if q.dedup != "" {
			if first := twins.look(at, &k); first != nil {
				out.places[at].copies++
				if q.dedup == "drop" {
					q.dropped++
					continue
				}
				q.marked++
				k.Comment = fmt.Sprintf("a copy of the packet seen at %s %s before", out.places[first.place].name, k.Time.Sub(first.time))
			}
		}
		if err := out.write(at, &k); err != nil {
			return fmt.Errorf("write %s: %w", q.file, err)
		}
		q.written++
		q.stored += uint64(len(k.Data))
		if q.packets > 0 && q.written == q.packets {
			return out.end()
		}
	}
}

// pulled makes a source of an iterator.
type pulled func() (*pcap.Packet, error, bool)

// Next implements pcap.Source.
func (next pulled) Next(p *pcap.Packet) error {
	k, err, ok := next()
	if !ok {
		return io.EOF
	}
	if err != nil {
		return err
	}
	*p = *k
	return nil
}

// fileRun is the wanted packets of a capture file.
type fileRun struct {
	q     *queryRun
	r     *pcap.Reader
	f     io.Closer
	faces []pcap.Interface
	match []func([]byte, uint32) bool // by interface
}

func (q *queryRun) openFile(s querySource) (*fileRun, error) {
	run := &fileRun{q: q}
	in := q.a.stdin
	if s.file != "-" {
		f, err := os.Open(s.file)
		if err != nil {
			return nil, err
		}
		in, run.f = f, f
	}
	var err error
	if run.r, err = pcap.NewReader(in); err != nil {
		run.close()
		return nil, fmt.Errorf("%s: %w", s.name, err)
	}
	return run, nil
}

func (r *fileRun) close() {
	if r.f != nil {
		r.f.Close()
	}
}

func (r *fileRun) face(i int) pcap.Interface { return r.faces[i] }

// Next implements pcap.Source.
func (r *fileRun) Next(p *pcap.Packet) error {
	w := &r.q.window
	for {
		if err := r.r.Next(p); err != nil {
			return err
		}
		for p.Interface >= len(r.match) {
			r.faces = r.r.Interfaces()
			face := r.faces[len(r.match)]
			var m func([]byte, uint32) bool
			if face.Link == packet.LinkEthernet || face.Link == packet.LinkRaw || r.q.expr.Root != nil {
				var err error
				if m, err = r.q.matcher(face.Link); err != nil {
					return err
				}
			}
			r.match = append(r.match, m)
		}
		r.q.looked.Packets++
		m := r.match[p.Interface]
		if p.Time >= w.From && (w.To == 0 || p.Time < w.To) && (m == nil || m(p.Data, p.OrigLen)) {
			return nil
		}
	}
}

// mergeWriter writes packets of several sources to one file.
type mergeWriter struct {
	ng      *pcap.NGWriter
	classic *pcap.ClassicWriter
	dst     io.Writer
	q       *queryRun
	numbers map[[2]int]int // of places, by source and its interface
	places  []mergePlace
}

// mergePlace is an interface of a source, which is one of the output too, by the same number.
type mergePlace struct {
	name            string
	link            packet.LinkType
	packets, copies uint64 // written; seen at another place before
	last            packet.Timestamp
}

func newMergeWriter(q *queryRun, dst io.Writer) (*mergeWriter, error) {
	w := &mergeWriter{q: q, dst: dst, numbers: make(map[[2]int]int)}
	if q.out != want.PcapNG {
		return w, nil
	}
	var err error
	w.ng, err = pcap.NewNGWriter(dst, q.section())
	return w, err
}

// place numbers an interface of a source.
func (w *mergeWriter) place(source, i int, face pcap.Interface) (int, error) {
	n, ok := w.numbers[[2]int{source, i}]
	if ok {
		return n, nil
	}
	p := mergePlace{name: w.q.sources[source].name, link: face.Link}
	if i > 0 && face.Name != "" {
		p.name += " " + face.Name
	}
	if w.ng != nil {
		if face.Description == "" {
			face.Description = w.q.sources[source].name
		}
		if _, err := w.ng.AddInterface(face); err != nil {
			return 0, err
		}
	}
	n = len(w.places)
	w.numbers[[2]int{source, i}], w.places = n, append(w.places, p)
	return n, nil
}

func (w *mergeWriter) write(place int, k *pcap.Packet) error {
	p := &w.places[place]
	p.packets, p.last = p.packets+1, k.Time
	if w.ng != nil {
		k.Interface = place
		return w.ng.WritePacket(k)
	}
	if w.classic == nil {
		var err error
		if w.classic, err = pcap.NewClassicWriter(w.dst, p.link, 0, true); err != nil {
			return err
		}
	}
	if p.link != w.places[0].link {
		return usagef("the sources have different link types, which a pcap file cannot hold: ask for pcapng")
	}
	return w.classic.WritePacket(k)
}

// end tells at the end of a pcapng file how many copies of packets each place had.
func (w *mergeWriter) end() error {
	if w.ng == nil || w.q.dedup == "" {
		return nil
	}
	what := "left out"
	if w.q.dedup == "mark" {
		what = "marked"
	}
	for i, p := range w.places {
		st := pcap.Stats{
			Interface: i, Time: p.last, Delivered: p.packets, Has: pcap.HasDelivered,
			Comment: fmt.Sprintf("%d copies of packets that were seen at another point at most %s before are %s", p.copies, w.q.within, what),
		}
		if err := w.ng.WriteStats(&st); err != nil {
			return err
		}
	}
	return nil
}

// twinFinder finds packets that were seen at more than one place.
type twinFinder struct {
	within packet.Timestamp
	seed   maphash.Seed
	seen   map[uint64][]*twin
	order  []*twin
}

// twin is a packet as it was seen first.
type twin struct {
	hash   uint64
	time   packet.Timestamp
	place  int
	others []int // places that had it since
	orig   uint32
	data   []byte
}

// look returns the first sight of the packet k of a place, if it was at another place; each place's copy counts once.
func (t *twinFinder) look(place int, k *pcap.Packet) *twin {
	for len(t.order) > 0 && t.order[0].time+t.within < k.Time {
		old := t.order[0]
		t.order = t.order[1:]
		if list := t.seen[old.hash]; len(list) > 1 {
			t.seen[old.hash] = list[1:]
		} else {
			delete(t.seen, old.hash)
		}
	}
	h := maphash.Bytes(t.seed, k.Data)
	for _, w := range t.seen[h] {
		if w.place == place || w.orig != k.OrigLen || string(w.data) != string(k.Data) || k.Time < w.time || k.Time > w.time+t.within {
			continue
		}
		had := false
		for _, o := range w.others {
			had = had || o == place
		}
		if !had {
			w.others = append(w.others, place)
			return w
		}
	}
	w := &twin{hash: h, time: k.Time, place: place, orig: k.OrigLen, data: append([]byte(nil), k.Data...)}
	t.seen[h] = append(t.seen[h], w)
	t.order = append(t.order, w)
	return nil
}
