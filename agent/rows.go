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
	"opentap/flow/arrowout"
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

// acquire opens the log if nobody has it open: for reading alone when the capture has ended, since its disk may be full.
// Every acquire has its release.
func (r *rowLog[T]) acquire(ended bool) (*record.Log[T], error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.log == nil {
		log, _, err := record.Open(record.Config{Dir: r.dir, ReadOnly: ended}, r.codec)
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
	case want.Arrow:
		return arrowout.NewWriter(w), nil
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

// rowSnapshot is a fixed set of rows.
type rowSnapshot[T any] struct {
	each    func(ctx context.Context, fn func(*T) error) error // the same rows each time; an error of fn ends it and is returned
	form    rowForm[T]
	etag    string // stands for these rows, for ever
	release func() error
}

// rowsUpto are the first upto rows of a log, and some that are in no log.
func rowsUpto[T any](j *job, rows *rowLog[T], log *record.Log[T], form rowForm[T], f want.Format, upto uint64, more []T) *rowSnapshot[T] {
	etag := fmt.Sprintf("%s-%s-%d", j.uid[:12], f, upto)
	if len(more) > 0 {
		etag += "-" + strconv.FormatInt(time.Now().UnixNano(), 36) // open flows change with every packet: never to be had again
	}
	each := func(ctx context.Context, fn func(*T) error) error {
		wanted := func(i uint64, v *T) error { // looks now and then whether anybody still wants the rows
			if i%1024 == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			return fn(v)
		}
		err := log.Each(upto, wanted)
		for i := range more {
			if err != nil {
				break
			}
			err = wanted(uint64(i), &more[i])
		}
		return err
	}
	return &rowSnapshot[T]{each: each, form: form, etag: etag, release: sync.OnceValue(rows.release)}
}

func (s *rowSnapshot[T]) writeAll(ctx context.Context, w io.Writer, f want.Format) (rows uint64, err error) {
	out, err := s.form(w, f)
	if err != nil {
		return 0, err
	}
	err = s.each(ctx, func(v *T) error {
		rows++
		return out.Write(v)
	})
	if err == nil {
		err = out.Close()
	}
	return rows, err
}

// retrieval makes the answer to an open; the snapshot is its own from then on.
func (s *rowSnapshot[T]) retrieval(ctx context.Context, j *job, st want.Status, f want.Format) (*want.Retrieval, error) {
	var n counter
	rows, err := s.writeAll(ctx, &n, f)
	if err != nil {
		return nil, errors.Join(err, s.release())
	}
	return &want.Retrieval{
		Format: f, FileName: fileName(j, f), Size: int64(n), ETag: s.etag, Modified: st.Updated,
		Final: st.State.Final(), Ledger: st.Ledger, Records: rows,
		Write: func(ctx context.Context, w io.Writer, offset, length int64) error {
			if length == 0 {
				return nil
			}
			_, err := s.writeAll(ctx, &window{w: w, skip: offset, left: length}, f)
			if errors.Is(err, errEnough) {
				return nil
			}
			return err
		},
		Close: s.release,
	}, nil
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
	log, err := s.rows.acquire(st.State.Final())
	if err != nil {
		return nil, err
	}
	upto := log.Len()
	if then, ok := rowsOf(s.j, o.Format, o.ETag); ok && then <= upto {
		upto = then
	}
	if upto == 0 && !st.State.Final() {
		return nil, errors.Join(notYet(), s.rows.release())
	}
	return rowsUpto(s.j, &s.rows, log, s.form, o.Format, upto, nil).retrieval(ctx, s.j, st, o.Format)
}

func notYet() error {
	return &fault.Error{Kind: fault.NotReady, Msg: "nothing has been captured yet", RetryAfter: time.Second}
}

func (f *flows) open(ctx context.Context, st want.Status, o want.OpenOptions) (*want.Retrieval, error) {
	log, err := f.rows.acquire(st.State.Final())
	if err != nil {
		return nil, err
	}
	upto, live := log.Len(), []flow.Record(nil)
	if then, ok := rowsOf(f.j, o.Format, o.ETag); ok && then <= upto {
		upto = then
	} else if !st.State.Final() {
		if upto, live, err = f.snapshot(ctx); err != nil {
			return nil, errors.Join(err, f.rows.release())
		}
	}
	return rowsUpto(f.j, &f.rows, log, flowForm, o.Format, upto, live).retrieval(ctx, f.j, st, o.Format)
}
