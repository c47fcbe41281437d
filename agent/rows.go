package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"opentap/fault"
	"opentap/flow"
	"opentap/flow/csvout"
	flowparquet "opentap/flow/parquetout"
	"opentap/record"
	"opentap/sensor"
	sensorcsv "opentap/sensor/csvout"
	"opentap/sensor/ifcount"
	sensorparquet "opentap/sensor/parquetout"
	"opentap/want"
)

// rowLog is a capture's log of rows, shared by the one that appends and those that read. It is open while anybody needs it.
type rowLog[T any] struct {
	dir   string
	codec record.Codec[T]

	mu    sync.Mutex
	log   *record.Log[T]
	users int
}

// acquire opens the log if nobody has it open. Every acquire has its release.
func (r *rowLog[T]) acquire() (*record.Log[T], error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.log == nil {
		log, _, err := record.Open(record.Config{Dir: r.dir}, r.codec)
		if err != nil {
			return nil, fmt.Errorf("open the capture's rows: %w", err)
		}
		r.log = log
	}
	r.users++
	return r.log, nil
}

// release closes the log when nobody needs it any more.
func (r *rowLog[T]) release() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.users--; r.users > 0 {
		return nil
	}
	err := r.log.Close()
	r.log = nil
	return err
}

// rowWriter writes rows in one format. Close writes what ends the format.
type rowWriter[T any] interface {
	Write(v *T) error
	Close() error
}

// rowForm begins a format.
type rowForm[T any] func(w io.Writer, f want.Format) (rowWriter[T], error)

func flowForm(w io.Writer, f want.Format) (rowWriter[flow.Record], error) {
	switch f {
	case want.Classic:
		return csvout.NewClassic(w), nil
	case want.CSV:
		return csvout.NewCSV(w, csvout.Options{}), nil
	case want.NDJSON:
		return csvout.NewNDJSON(w, csvout.Options{}), nil
	case want.Parquet:
		return flowparquet.NewWriter(w), nil
	}
	return nil, fault.Field("format", "%q is not a format of flow records", f)
}

func counterForm(w io.Writer, f want.Format) (rowWriter[ifcount.Row], error) {
	if f == want.Parquet {
		return sensorparquet.NewCounters(w), nil
	}
	return sensorcsv.NewCounters(w, f)
}

// sampleForm names the classic column as the first OpenTap did: by the kind of sensor that was asked for.
func (a *Agent) sampleForm(c want.Capture) rowForm[sensor.Sample] {
	column := c.Quantity
	if column == "" {
		a.mu.Lock()
		for _, p := range a.sensorPts {
			if p.Name == c.Query.Points[0] {
				column = p.Quantity
			}
		}
		a.mu.Unlock()
	}
	return func(w io.Writer, f want.Format) (rowWriter[sensor.Sample], error) {
		if f == want.Parquet {
			return sensorparquet.NewSamples(w), nil
		}
		return sensorcsv.NewSamples(w, f, column)
	}
}

// rowSnapshot is a fixed set of rows: the first upto of the log, and some that are in no log.
type rowSnapshot[T any] struct {
	rows *rowLog[T]
	log  *record.Log[T]
	upto uint64
	more []T
	form rowForm[T]
}

func (s *rowSnapshot[T]) writeAll(ctx context.Context, w io.Writer, f want.Format) error {
	out, err := s.form(w, f)
	if err != nil {
		return err
	}
	n := 0
	err = s.log.Each(s.upto, func(_ uint64, v *T) error {
		if n++; n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		return out.Write(v)
	})
	for i := range s.more {
		if err != nil {
			break
		}
		err = out.Write(&s.more[i])
	}
	if err != nil && !errors.Is(err, errEnough) {
		return err
	}
	if err == nil {
		err = out.Close()
	}
	return err
}

// retrieval makes the answer to an open. etag stands for the same bytes for ever, unless rows are in no log.
func (s *rowSnapshot[T]) retrieval(ctx context.Context, j *job, st want.Status, f want.Format) (*want.Retrieval, error) {
	var n counter
	if err := s.writeAll(ctx, &n, f); err != nil {
		return nil, errors.Join(err, s.rows.release())
	}
	etag := fmt.Sprintf("%s-%s-%d", j.uid[:12], f, s.upto)
	if len(s.more) > 0 {
		etag += "-" + strconv.FormatInt(time.Now().UnixNano(), 36) // open flows change with every packet
	}
	var once sync.Once
	return &want.Retrieval{Format: f, FileName: fileName(j, f), Size: int64(n), ETag: etag, Modified: st.Updated,
		Final: st.State.Final(), Ledger: st.Ledger, Records: s.upto + uint64(len(s.more)),
		Write: func(ctx context.Context, w io.Writer, offset, length int64) error {
			part := &window{w: w, skip: offset, left: length}
			err := s.writeAll(ctx, part, f)
			if errors.Is(err, errEnough) {
				return nil
			}
			return err
		},
		Close: func() (err error) { once.Do(func() { err = s.rows.release() }); return err }}, nil
}

// rowsOf returns how many rows an ETag of ours stands for; ok is false when it is not ours or holds rows of no log.
func rowsOf(j *job, f want.Format, etag string) (upto uint64, ok bool) {
	rest, ok := strings.CutPrefix(etag, fmt.Sprintf("%s-%s-", j.uid[:12], f))
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(rest, 10, 64)
	return n, err == nil
}

// fileName suggests a name that is safe on any file system.
func fileName(j *job, f want.Format) string {
	id := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '-' || r == '_' {
			return r
		}
		return '_'
	}, j.get().ID)
	return "opentap-" + id + f.Extension()
}

// counter counts octets.
type counter int64

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

// errEnough ends the writing of what nobody will read.
var errEnough = errors.New("enough")

// window lets through left octets after the first skip; a negative left is all the rest.
type window struct {
	w          io.Writer
	skip, left int64
}

func (v *window) Write(p []byte) (int, error) {
	n := len(p)
	if v.skip >= int64(n) {
		v.skip -= int64(n)
		return n, nil
	}
	p = p[v.skip:]
	v.skip = 0
	if v.left >= 0 && int64(len(p)) > v.left {
		p = p[:v.left]
	}
	if _, err := v.w.Write(p); err != nil {
		return 0, err
	}
	if v.left >= 0 {
		if v.left -= int64(len(p)); v.left == 0 {
			return n, errEnough
		}
	}
	return n, nil
}

func (s *samples[T]) open(ctx context.Context, st want.Status, o want.OpenOptions) (*want.Retrieval, error) {
	log, err := s.rows.acquire()
	if err != nil {
		return nil, err
	}
	snap := &rowSnapshot[T]{rows: &s.rows, log: log, upto: log.Len(), form: s.form}
	if upto, ok := rowsOf(s.j, o.Format, o.ETag); ok && upto <= snap.upto {
		snap.upto = upto
	}
	if snap.upto == 0 && !st.State.Final() {
		return nil, errors.Join(notYet(), s.rows.release())
	}
	return snap.retrieval(ctx, s.j, st, o.Format)
}

func notYet() error {
	return &fault.Error{Kind: fault.NotReady, Msg: "nothing has been captured yet", RetryAfter: time.Second}
}

func (f *flows) open(ctx context.Context, st want.Status, o want.OpenOptions) (*want.Retrieval, error) {
	log, err := f.rows.acquire()
	if err != nil {
		return nil, err
	}
	snap := &rowSnapshot[flow.Record]{rows: &f.rows, log: log, upto: log.Len(), form: flowForm}
	if upto, ok := rowsOf(f.j, o.Format, o.ETag); ok && upto <= snap.upto {
		snap.upto = upto
	} else if !st.State.Final() {
		if upto, live, ok := f.snapshot(ctx); ok {
			snap.upto, snap.more = upto, live
		} else {
			<-f.ended
			snap.upto = log.Len()
		}
	}
	return snap.retrieval(ctx, f.j, st, o.Format)
}
