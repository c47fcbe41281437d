package httpapi

import (
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"opentap/fault"
	"opentap/ledger"
	"opentap/want"
)

// SnapshotAsked returns the entity tag of the snapshot that a request wants to go on with (If-Range, If-Match), without its
// quotes; "" = whatever there is now. Weak and several tags name no snapshot.
func SnapshotAsked(r *http.Request) string {
	for _, name := range []string{"If-Range", "If-Match"} {
		if v := r.Header.Get(name); len(v) > 2 && v[0] == '"' && strings.IndexByte(v[1:], '"') == len(v)-2 {
			return v[1 : len(v)-1]
		}
	}
	return ""
}

// ServeRetrieval answers GET or HEAD with the data: conditional requests, a single byte range, the ledger in headers (RFC
// 9110 sections 13 and 14). It does not close rt. An error after the body began is ErrAborted or carries its cause, and
// the gate breaks the connection.
func ServeRetrieval(w http.ResponseWriter, r *http.Request, rt *want.Retrieval) error {
	h := w.Header()
	etag := ""
	if rt.ETag != "" && tagSafe(rt.ETag) {
		etag = `"` + rt.ETag + `"`
	}
	set := func() {
		h.Set("Content-Type", rt.Format.MediaType())
		h.Set("Content-Disposition", disposition(rt.FileName, rt.Format))
		h.Set("Cache-Control", "private, no-cache")
		h.Set("OpenTap-Final", strconv.FormatBool(rt.Final))
		h.Set("OpenTap-Records", strconv.FormatUint(rt.Records, 10))
		setLedger(h, &rt.Ledger)
		if etag != "" {
			h.Set("ETag", etag)
		}
		if !rt.Modified.IsZero() {
			h.Set("Last-Modified", rt.Modified.UTC().Format(http.TimeFormat))
		}
		if rt.Size >= 0 {
			h.Set("Accept-Ranges", "bytes")
		} else {
			h.Set("Accept-Ranges", "none")
		}
	}
	if m := r.Header.Get("If-Match"); m != "" && !tagListed(m, etag, false) {
		return WithStatus(http.StatusPreconditionFailed, fault.Conflict, "the data is no longer what If-Match names")
	}
	if notModified(r, etag, rt.Modified) {
		set()
		for _, k := range []string{"Content-Type", "Content-Disposition", "Accept-Ranges"} {
			h.Del(k)
		}
		w.WriteHeader(http.StatusNotModified)
		return nil
	}

	status, offset, length := http.StatusOK, int64(0), rt.Size
	if rg := r.Header.Get("Range"); rg != "" && rt.Size >= 0 && r.Method == http.MethodGet && rangeHolds(r, etag, rt.Modified) {
		from, n, ok, single := parseRange(rg, rt.Size)
		switch {
		case single && !ok:
			err := WithStatus(http.StatusRequestedRangeNotSatisfiable, fault.Invalid, "the range lies beyond the data's %d octets", rt.Size)
			err.(*statusError).header = http.Header{"Content-Range": {fmt.Sprintf("bytes */%d", rt.Size)}}
			return err
		case single:
			status, offset, length = http.StatusPartialContent, from, n
		}
	}

	b := &body{w: w, rc: http.NewResponseController(w), stall: stallOf(r), left: length, begin: func() {
		set()
		if length >= 0 {
			h.Set("Content-Length", strconv.FormatInt(length, 10))
		}
		if status == http.StatusPartialContent {
			h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", offset, offset+length-1, rt.Size))
		}
		w.WriteHeader(status)
	}}
	if r.Method == http.MethodHead || length == 0 {
		b.start()
		return nil
	}
	err := rt.Write(r.Context(), b, offset, length)
	switch {
	case err != nil && !b.started: // it can still be told
		return err
	case err != nil:
		return streamError(b.octets, err)
	case b.left > 0:
		b.start()
		return fmt.Errorf("stream data: %d octets short", b.left)
	}
	b.start()
	return nil
}

func stallOf(r *http.Request) time.Duration {
	if q, ok := r.Context().Value(requestKey).(*request); ok {
		return q.gate.cfg.StallTimeout
	}
	return DefaultConfig().StallTimeout
}

func streamError(octets int64, err error) error {
	return fmt.Errorf("stream data after %d octets: %w", octets, err)
}

// body is the response body of a stream. Headers go out with the first octets, so that an early error can be answered; each
// write moves the deadline, so that only a client that stalls is cut off.
type body struct {
	w       http.ResponseWriter
	rc      *http.ResponseController
	stall   time.Duration
	begin   func()
	started bool
	left    int64 // octets still owed; below 0 = unknown
	octets  int64
}

func (b *body) start() {
	if !b.started {
		b.started = true
		_ = b.rc.SetWriteDeadline(time.Now().Add(b.stall))
		b.begin()
	}
}

// Write implements io.Writer. More than the promised length is an error, not a silent cut.
func (b *body) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if b.left >= 0 && int64(len(p)) > b.left {
		return 0, fmt.Errorf("data grew beyond its announced length: %w", io.ErrShortWrite)
	}
	b.start()
	// A large write is cut, so that the deadline is about progress and not about size.
	total := 0
	for len(p) > 0 {
		n := min(len(p), 256<<10)
		_ = b.rc.SetWriteDeadline(time.Now().Add(b.stall))
		m, err := b.w.Write(p[:n])
		total += m
		b.octets += int64(m)
		if b.left >= 0 {
			b.left -= int64(m)
		}
		if err != nil {
			return total, fmt.Errorf("%w: the client takes nothing more: %w", ErrAborted, err)
		}
		p = p[n:]
	}
	return total, nil
}

// setLedger writes the packet accounts into headers, each on its own and all in one line.
func setLedger(h http.Header, a *ledger.Account) {
	var line strings.Builder
	put := func(name, key string, n uint64) {
		if name != "" {
			h.Set("OpenTap-Ledger-"+name, strconv.FormatUint(n, 10))
		}
		if line.Len() > 0 {
			line.WriteByte(';')
		}
		line.WriteString(key)
		line.WriteByte('=')
		line.WriteString(strconv.FormatUint(n, 10))
	}
	put("Seen", "seen", a.Seen)
	put("Captured", "captured", a.Captured)
	put("Filtered", "filtered", a.Filtered)
	put("Sampled-Out", "sampled-out", a.SampledOut)
	put("Rate-Limited", "rate-limited", a.RateLimited)
	put("Dropped", "dropped", a.DroppedTotal())
	for i, n := range a.Dropped {
		put("", "dropped-"+strings.ReplaceAll(ledger.Reason(i).String(), "_", "-"), n)
	}
	if a.FilterUncounted {
		line.WriteString(";filter-uncounted=1") // filtered and seen are lower bounds
	}
	h.Set("OpenTap-Ledger", line.String())
}

// disposition names the file for browsers: plain ASCII, and the full name as RFC 6266 has it.
func disposition(name string, f want.Format) string {
	name = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f || strings.ContainsRune(`/\:*?"<>|`, c) || c == 0xFFFD {
			return '_'
		}
		return c
	}, name)
	name = strings.TrimLeft(name, ".")
	if name == "" {
		name = "capture" + f.Extension()
	}
	if r := []rune(name); len(r) > 200 {
		name = string(r[:200])
	}
	ascii := strings.Map(func(c rune) rune {
		if c > '~' || c == '%' || c == ';' {
			return '_'
		}
		return c
	}, name)
	d := mime.FormatMediaType("attachment", map[string]string{"filename": ascii})
	if ascii != name {
		d += "; filename*=UTF-8''" + url.PathEscape(name)
	}
	return d
}

// tagSafe reports whether the tag is made of RFC 9110's etagc characters, ASCII only.
func tagSafe(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c == '"' || c >= 0x7f {
			return false
		}
	}
	return true
}

// tagListed reports whether the entity tag is in the header's list. weak compares as If-None-Match does.
func tagListed(list, etag string, weak bool) bool {
	for t := range strings.SplitSeq(list, ",") {
		t = strings.TrimSpace(t)
		if t == "*" || (etag != "" && (t == etag || weak && strings.TrimPrefix(t, "W/") == etag)) {
			return true
		}
	}
	return false
}

func notModified(r *http.Request, etag string, modified time.Time) bool {
	if m := r.Header.Get("If-None-Match"); m != "" {
		return tagListed(m, etag, true)
	}
	if m := r.Header.Get("If-Modified-Since"); m != "" && !modified.IsZero() {
		t, err := http.ParseTime(m)
		return err == nil && !modified.Truncate(time.Second).After(t)
	}
	return false
}

// rangeHolds evaluates If-Range: without it a range always holds.
func rangeHolds(r *http.Request, etag string, modified time.Time) bool {
	v := r.Header.Get("If-Range")
	if v == "" {
		return true
	}
	if strings.HasPrefix(v, `"`) || strings.HasPrefix(v, "W/") {
		return etag != "" && v == etag
	}
	t, err := http.ParseTime(v)
	return err == nil && !modified.IsZero() && modified.Truncate(time.Second).Equal(t)
}

// parseRange reads a Range header for data of size octets. single is false when it is not one well-formed byte range: such
// a header is ignored, as RFC 9110 section 14.2 allows. ok is false when the range holds no octet.
func parseRange(s string, size int64) (from, length int64, ok, single bool) {
	spec, found := strings.CutPrefix(s, "bytes=")
	if !found || strings.Contains(spec, ",") {
		return 0, 0, false, false
	}
	first, last, found := strings.Cut(strings.TrimSpace(spec), "-")
	if !found || !digits(first) || !digits(last) || first == "" && last == "" {
		return 0, 0, false, false
	}
	a, errA := strconv.ParseInt(first, 10, 64)
	b, errB := strconv.ParseInt(last, 10, 64)
	switch {
	case first == "": // the last b octets
		if errB != nil || b > size {
			b = size
		}
		return size - b, b, b > 0, true
	case errA != nil || a >= size:
		return 0, 0, false, true
	case last == "":
		return a, size - a, true, true
	case errB != nil || b >= size:
		b = size - 1
	}
	if b < a {
		return 0, 0, false, false
	}
	return a, b - a + 1, true, true
}

func digits(s string) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}
