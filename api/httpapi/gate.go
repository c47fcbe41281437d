package httpapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"path"
	"runtime/debug"
	"strings"
	"time"

	"opentap/fault"
)

// Config is what every door has in common.
type Config struct {
	Auth     Authenticator
	Sessions Sessions // of browsers; nil = there are none
	Log      *slog.Logger
	// Denied is told of each token that was refused, so that it can be written down; nil = nobody is. Callers that are
	// held off because they tried too often are not reported, lest they fill the log.
	Denied func(ctx context.Context, remote netip.AddrPort, err error)
	// Observe is told of each request once it is over; nil = nobody is. It must not block.
	Observe func(e Exchange)
	Hosts   []string // further names this server answers to, lower case, without port
	Origins []string // further browser origins ("https://tap.example") whose pages may send requests
	MaxBody int64    // octets of a request body
	// BodyTimeout is how long a client may take to send a request body.
	BodyTimeout time.Duration
	// AnswerTimeout is how long an answer may take that is not streamed.
	AnswerTimeout time.Duration
	// StallTimeout is how long a client may accept nothing of a streamed body.
	StallTimeout time.Duration
}

// DefaultConfig has the limits; Auth is the caller's to set.
func DefaultConfig() Config {
	return Config{MaxBody: 1 << 20, BodyTimeout: 30 * time.Second, AnswerTimeout: 2 * time.Minute, StallTimeout: time.Minute}
}

// Gate is what stands before the doors: every request passes it. It is safe for concurrent use.
type Gate struct {
	cfg Config
	log *slog.Logger
}

// NewGate checks cfg. It starts nothing.
func NewGate(cfg Config) (*Gate, error) {
	if cfg.Auth == nil {
		return nil, errors.New("make http gate: no authenticator")
	}
	d := DefaultConfig()
	if cfg.MaxBody <= 0 {
		cfg.MaxBody = d.MaxBody
	}
	if cfg.BodyTimeout <= 0 {
		cfg.BodyTimeout = d.BodyTimeout
	}
	if cfg.AnswerTimeout <= 0 {
		cfg.AnswerTimeout = d.AnswerTimeout
	}
	if cfg.StallTimeout <= 0 {
		cfg.StallTimeout = d.StallTimeout
	}
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Gate{cfg: cfg, log: log}, nil
}

// Server returns a server for the handler with the timeouts that keep slow clients from holding it. The caller serves and
// shuts it down. There is no whole-request timeout: bodies and answers have deadlines of their own, and streams go on while
// the client takes them.
func (g *Gate) Server(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
}

// Handler serves the doors' routes. It panics when two routes collide: that is a mistake of the program, found at its start.
func (g *Gate) Handler(doors ...Door) http.Handler {
	mux := http.NewServeMux()
	for i := range doors {
		for _, rt := range doors[i].Routes {
			mux.HandleFunc(rt.Method+" "+rt.Path, func(w http.ResponseWriter, r *http.Request) {
				q := r.Context().Value(requestKey).(*request)
				q.door, q.pattern = &doors[i], rt.Path
				q.err = g.enter(w, r, q, rt)
			})
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := &request{id: requestID(r), gate: g, door: doorOf(doors, r.URL.Path)}
		r = r.WithContext(context.WithValue(r.Context(), requestKey, q))
		rw := &responseWriter{ResponseWriter: w}
		started := time.Now()
		h := rw.Header()
		h.Set("X-Request-Id", q.id)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		_ = http.NewResponseController(rw).SetWriteDeadline(started.Add(g.cfg.AnswerTimeout)) // writers of tests have none
		defer g.finish(rw, r, q, started)

		g.route(rw, r, q, mux)
		switch {
		case q.err == nil:
		case rw.status != 0, gone(r.Context(), q.err): // it began: a clean end would be a lie
			panic(http.ErrAbortHandler)
		default:
			q.door.Fail(rw, r, problemOf(h, q.err, q.id))
		}
	})
}

// route lets the mux find the route and its function run. Paths are never cleaned and redirected: an id may look like one. A
// slash at the end is kept for routes that end so.
// A panic of the route is contained here, while the error can still be told.
func (g *Gate) route(w *responseWriter, r *http.Request, q *request, mux *http.ServeMux) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			q.err = ErrAborted
		default:
			g.log.Error("request panicked", "request_id", q.id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			q.err = fault.New(fault.Internal, "panic: %v", p)
		}
	}()
	if p := r.URL.EscapedPath(); p == "" || p[0] != '/' || strings.HasSuffix(p, "//") || path.Clean(p) != strings.TrimSuffix(p, "/") && p != "/" {
		q.err = fault.New(fault.NotFound, "no such path")
		return
	}
	h, pattern := mux.Handler(r)
	if pattern != "" {
		mux.ServeHTTP(w, r)
		return
	}
	refusal := &discard{header: make(http.Header)}
	h.ServeHTTP(refusal, r)
	q.err = fault.New(fault.NotFound, "no such path")
	if refusal.status == http.StatusMethodNotAllowed {
		allow := refusal.header.Get("Allow")
		q.err = &statusError{
			status: http.StatusMethodNotAllowed,
			fault:  &fault.Error{Kind: fault.Invalid, Msg: "this path does not take the method " + shortMethod(r.Method), Hint: "it takes " + allow},
			header: http.Header{"Allow": {allow}},
		}
	}
}

// enter decides whether the caller may come in, and lets the door answer.
func (g *Gate) enter(w http.ResponseWriter, r *http.Request, q *request, rt Route) error {
	if r.ContentLength != 0 {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(g.cfg.BodyTimeout))
		r.Body = http.MaxBytesReader(w, r.Body, g.cfg.MaxBody)
	}
	if !rt.Linked {
		if err := g.checkOrigin(r); err != nil {
			return err
		}
	}
	find := TokenOf
	if q.door.Credential != nil {
		find = q.door.Credential
	}
	tok, err := find(r)
	if err != nil {
		return err
	}
	q.token = tok
	if tok == "" && g.cfg.Sessions != nil && !rt.open(r) {
		q.session = sessionOf(r)
	}
	if q.session != "" {
		return g.visit(w, r, q, rt)
	}
	if tok == "" {
		if err := g.checkHost(r); err != nil {
			return err
		}
	}
	if id, ok := visitor(rt, tok, r); ok {
		q.who = id.Name
		r = r.WithContext(context.WithValue(r.Context(), identityKey, id))
	} else if !rt.open(r) {
		id, err := g.cfg.Auth.Authenticate(inProject(r), tok, remoteAddr(r))
		if err != nil {
			if tok != "" && fault.Is(err, fault.Unauthenticated) && g.cfg.Denied != nil {
				g.cfg.Denied(r.Context(), remoteAddr(r), err)
			}
			return err
		}
		q.who = id.Name
		r = r.WithContext(context.WithValue(r.Context(), identityKey, id))
	}
	return rt.Serve(w, r)
}

// visit lets a browser with a session in.
func (g *Gate) visit(w http.ResponseWriter, r *http.Request, q *request, rt Route) error {
	if err := checkPage(r); err != nil {
		return err
	}
	id, err := g.cfg.Sessions.UseSession(r.Context(), q.session, remoteAddr(r))
	if err != nil {
		return err // not written down as refused: sessions end all the time
	}
	q.who = id.Name
	return rt.Serve(w, r.WithContext(context.WithValue(r.Context(), identityKey, id)))
}

// doorOf picks the door whose prefix is the longest that fits.
func doorOf(doors []Door, p string) *Door {
	best := &doors[0]
	fit := -1
	for i := range doors {
		if d := &doors[i]; strings.HasPrefix(p, d.Prefix) && len(d.Prefix) > fit {
			best, fit = d, len(d.Prefix)
		}
	}
	return best
}

func shortMethod(m string) string {
	if len(m) > 16 {
		return "that method"
	}
	return m
}

// finish contains panics, logs the access and lets an aborted answer break its connection. No header, body, query or token
// is logged.
func (g *Gate) finish(w *responseWriter, r *http.Request, q *request, started time.Time) {
	p := recover()
	if p != nil && p != http.ErrAbortHandler {
		g.log.Error("request panicked", "request_id", q.id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	}
	level := slog.LevelInfo
	if r.Method == http.MethodGet && w.status < 400 && !strings.HasSuffix(q.pattern, "/data") && !strings.HasSuffix(q.pattern, "/live") {
		level = slog.LevelDebug // looking changes nothing and is done all the time; what opens traffic is in the audit log too
	}
	attrs := []any{
		"method", shortMethod(r.Method), "path", r.URL.EscapedPath(), "status", w.status, "octets", w.octets,
		"duration", time.Since(started), "remote", r.RemoteAddr, "door", q.door.Name, "route", q.pattern, "who", q.who, "request_id", q.id,
	}
	if q.err != nil && (w.status >= 500 || w.status < 400) {
		attrs = append(attrs, "error", q.err.Error())
		if !gone(r.Context(), q.err) && !errors.Is(q.err, ErrAborted) {
			level = slog.LevelError
		}
	}
	g.log.Log(r.Context(), level, "request", attrs...)
	if g.cfg.Observe != nil {
		g.cfg.Observe(exchangeOf(r, q, w, time.Since(started)))
	}
	if p != nil {
		panic(http.ErrAbortHandler)
	}
}

// responseWriter remembers what was written, for the log and for the decision whether an error can still be told.
type responseWriter struct {
	http.ResponseWriter
	status int
	octets int64
}

func (w *responseWriter) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *responseWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(b)
	w.octets += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController through.
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// discard is a response nobody reads.
type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(s int)           { d.status = s }
