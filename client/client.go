// Package client talks to OpenTap's /v1.
//
// Runs in: tools
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"opentap/fault"
	"opentap/ledger"
	"opentap/point"
	"opentap/want"
)

// Config says where the server is.
type Config struct {
	URL       string       // "http://127.0.0.1:2020"
	Token     string       // "" = come in as whoever the server lets in
	HTTP      *http.Client // nil = one of its own without an overall timeout, since captures stream
	UserAgent string
	Trust     Trust // in certificates of an https server; not used with HTTP
}

// Client is safe for concurrent use.
type Client struct {
	base string
	cfg  Config
	http *http.Client

	limit int // see Limited
}

// New checks the URL. It connects to nothing.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(cfg.URL)
	switch {
	case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "":
		return nil, fmt.Errorf("server url %q is not like http://127.0.0.1:2020", cfg.URL)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("server url holds more than scheme, host and path; a token has its own place")
	}
	c := &Client{base: strings.TrimRight(u.String(), "/"), cfg: cfg, http: cfg.HTTP}
	if c.http == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.ResponseHeaderTimeout = 2 * time.Minute
		v, err := newVerifier(cfg.Trust, u)
		if err != nil {
			return nil, err
		}
		t.TLSClientConfig = v.config()
		// A redirect is never followed: it would carry the token to another place.
		c.http = &http.Client{Transport: &askingTransport{t, v}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	return c, nil
}

// Close gives idle connections back.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// ConnectError says that the server could not be reached, or went away before it had answered.
type ConnectError struct {
	URL string
	Err error
}

// Error implements error.
func (e *ConnectError) Error() string { return fmt.Sprintf("reach %s: %v", e.URL, e.Err) }

// Unwrap returns the cause.
func (e *ConnectError) Unwrap() error { return e.Err }

// Version is what runs at the server.
type Version struct {
	Product string `json:"product"`
	Version string `json:"version"`
	API     string `json:"api"`
	Go      string `json:"go"`
}

// Ledger is a capture's packet accounts.
type Ledger struct {
	ID      string         `json:"id"`
	UID     string         `json:"uid"`
	State   want.State     `json:"state"`
	Final   bool           `json:"final"`
	Ledger  ledger.Account `json:"ledger"`
	Records uint64         `json:"records"`
	Bytes   uint64         `json:"bytes"`
	Gaps    []want.Gap     `json:"gaps"`
}

// Version asks what runs there.
func (c *Client) Version(ctx context.Context) (v Version, err error) {
	_, err = c.do(ctx, "GET", "/v1/version", nil, &v)
	return v, err
}

// Points lists the observation points.
func (c *Client) Points(ctx context.Context) ([]point.Point, error) {
	return listOf[point.Point](ctx, c, "/v1/points", "points", nil)
}

// Point shows one observation point by its name, alias, or "node/name".
func (c *Client) Point(ctx context.Context, name string) (p point.Point, err error) {
	_, err = c.do(ctx, "GET", "/v1/points/"+escape(name), nil, &p)
	return p, err
}

// Capabilities asks what the installation can do.
func (c *Client) Capabilities(ctx context.Context) (v want.Capabilities, err error) {
	_, err = c.do(ctx, "GET", "/v1/capabilities", nil, &v)
	return v, err
}

// Nodes lists the hosts with an agent.
func (c *Client) Nodes(ctx context.Context) ([]want.Node, error) {
	return listOf[want.Node](ctx, c, "/v1/nodes", "nodes", nil)
}

// Create starts or schedules a capture. created is false when the identical one was there already.
func (c *Client) Create(ctx context.Context, q want.Request) (v want.View, created bool, err error) {
	status, err := c.do(ctx, "POST", "/v1/captures", q, &v)
	return v, status == http.StatusCreated, err
}

// Captures lists captures.
func (c *Client) Captures(ctx context.Context) ([]want.View, error) {
	return listOf[want.View](ctx, c, "/v1/captures", "captures", nil)
}

// Capture shows one capture.
func (c *Client) Capture(ctx context.Context, id string) (v want.View, err error) {
	_, err = c.do(ctx, "GET", "/v1/captures/"+escape(id), nil, &v)
	return v, err
}

// Stop ends a capture; what was captured is kept.
func (c *Client) Stop(ctx context.Context, id string) (v want.View, err error) {
	_, err = c.do(ctx, "POST", "/v1/captures/"+escape(id)+"/stop", nil, &v)
	return v, err
}

// Delete removes a capture and its data.
func (c *Client) Delete(ctx context.Context, id string) error {
	_, err := c.do(ctx, "DELETE", "/v1/captures/"+escape(id), nil, nil)
	return err
}

// Ledger shows a capture's packet accounts.
func (c *Client) Ledger(ctx context.Context, id string) (v Ledger, err error) {
	_, err = c.do(ctx, "GET", "/v1/captures/"+escape(id)+"/ledger", nil, &v)
	return v, err
}

// CheckFilter has the server check a filter. It returns the canonical text and what it means.
func (c *Client) CheckFilter(ctx context.Context, expr string, strict bool) (canonical, explanation string, err error) {
	q := struct {
		Filter string `json:"filter"`
		Strict bool   `json:"strict"`
	}{expr, strict}
	var a struct {
		Filter      string `json:"filter"`
		Explanation string `json:"explanation"`
	}
	_, err = c.do(ctx, "POST", "/v1/filter/check", q, &a)
	return a.Filter, a.Explanation, err
}

// escape writes opaque text as one path segment; dots alone would be taken for a directory.
func escape(s string) string {
	if strings.Trim(s, ".") == "" {
		return strings.ReplaceAll(s, ".", "%2E")
	}
	return url.PathEscape(s)
}

// maxAnswer bounds an answer that is not streamed, octets.
const maxAnswer = 64 << 20

func (c *Client) request(ctx context.Context, method, path string, body any) (*http.Request, error) {
	var rd io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		rd = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, rd)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.cfg.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.cfg.Token)
	}
	if c.cfg.UserAgent != "" {
		req.Header.Set("User-Agent", c.cfg.UserAgent)
	}
	return req, nil
}

// send returns an answer with a status below 300, or the error it told. The caller closes the body.
func (c *Client) send(ctx context.Context, req *http.Request) (*http.Response, error) {
	resp, err := c.http.Do(req)
	return c.answer(ctx, resp, err)
}

func (c *Client) answer(ctx context.Context, resp *http.Response, err error) (*http.Response, error) {
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		var m *Mistrust
		if errors.As(err, &m) {
			return nil, m
		}
		return nil, &ConnectError{c.base, err}
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return nil, errorOf(resp, b)
}

// do calls and decodes the answer into out.
func (c *Client) do(ctx context.Context, method, path string, body, out any) (status int, err error) {
	req, err := c.request(ctx, method, path, body)
	if err != nil {
		return 0, err
	}
	resp, err := c.send(ctx, req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		return 0, &ConnectError{c.base, err}
	}
	if out == nil {
		return resp.StatusCode, nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return 0, fmt.Errorf("read answer of %s %s: not what an OpenTap server sends: %w", method, path, err)
	}
	return resp.StatusCode, nil
}

// errorOf turns an error answer back into the *fault.Error that the server had.
func errorOf(resp *http.Response, body []byte) error {
	var a struct {
		Error struct {
			Kind       string  `json:"kind"`
			Message    string  `json:"message"`
			Field      string  `json:"field"`
			Hint       string  `json:"hint"`
			Position   int     `json:"position"`
			RetryAfter float64 `json:"retry_after_seconds"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &a) != nil || a.Error.Kind == "" {
		if resp.StatusCode == http.StatusBadRequest && bytes.Contains(body, []byte("HTTP request to an HTTPS server")) {
			return &fault.Error{Kind: fault.Unavailable, Msg: "the server speaks TLS, and was asked without", Hint: "write https:// in its URL"}
		}
		return &fault.Error{
			Kind: kindOf(resp.StatusCode), Msg: fmt.Sprintf("the server answered %s, not as OpenTap does", resp.Status),
			Hint: "is there a proxy between, or another service at this address?",
		}
	}
	e := &fault.Error{
		Kind: fault.KindNamed(a.Error.Kind), Msg: a.Error.Message, Field: a.Error.Field, Hint: a.Error.Hint, Pos: a.Error.Position,
		RetryAfter: time.Duration(a.Error.RetryAfter * float64(time.Second)),
	}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && e.RetryAfter == 0 {
		e.RetryAfter = time.Duration(s) * time.Second
	}
	return e
}

// kindOf guesses the decision from the status of an answer that is not ours.
func kindOf(status int) fault.Kind {
	switch status {
	case http.StatusUnauthorized, http.StatusProxyAuthRequired:
		return fault.Unauthenticated
	case http.StatusForbidden:
		return fault.Forbidden
	case http.StatusNotFound:
		return fault.NotFound
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusTooManyRequests:
		return fault.Unavailable
	}
	return fault.Internal
}
