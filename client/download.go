package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"opentap/fault"
	"opentap/want"
)

// Stream is a capture's data on its way.
type Stream struct {
	Body   io.ReadCloser // ends with io.EOF only when it is whole
	Offset int64         // where in the data Body begins: what was asked for, or 0 when the server began anew
	Size   int64         // of the whole data, octets; -1 = unknown
	ETag   string        // names the snapshot, without quotes; "" = it cannot be resumed
	Type   string        // media type
	Name   string        // suggested file name
	Final  bool          // nothing will be added to the capture any more
	Ledger string        // the accounts in one line
}

// Open asks for the data from offset. With an etag the same snapshot is gone on with; when that cannot be had any more the
// Stream begins at 0 and has another ETag.
func (c *Client) Open(ctx context.Context, id string, f want.Format, offset int64, etag string) (*Stream, error) {
	path := "/v1/captures/" + escape(id) + "/data"
	if f != "" {
		path += "?format=" + url.QueryEscape(string(f))
	}
	req, err := c.request(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept-Encoding", "identity") // offsets count the octets as they are
	if offset > 0 && etag != "" {
		req.Header.Set("Range", "bytes="+strconv.FormatInt(offset, 10)+"-")
		req.Header.Set("If-Range", `"`+etag+`"`)
	}
	resp, err := c.http.Do(req)
	if err == nil && resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && offset > 0 {
		// Behind the end: either all is here, or the data is another. Ask for the whole, and see.
		resp.Body.Close()
		if size, ok := strings.CutPrefix(resp.Header.Get("Content-Range"), "bytes */"); ok && size == strconv.FormatInt(offset, 10) {
			return &Stream{Body: http.NoBody, Offset: offset, Size: offset, ETag: etag}, nil
		}
		return c.Open(ctx, id, f, 0, "")
	}
	if resp, err = c.answer(ctx, resp, err); err != nil {
		return nil, err
	}
	h := resp.Header
	s := &Stream{
		Body: resp.Body, Size: resp.ContentLength, Type: h.Get("Content-Type"), Name: h.Get("Content-Disposition"),
		Final: h.Get("OpenTap-Final") == "true", Ledger: h.Get("OpenTap-Ledger"),
	}
	if t := h.Get("ETag"); len(t) > 2 && t[0] == '"' {
		s.ETag = strings.Trim(t, `"`)
	}
	if resp.StatusCode == http.StatusPartialContent {
		var from, to int64
		var total string
		if n, _ := fmt.Sscanf(h.Get("Content-Range"), "bytes %d-%d/%s", &from, &to, &total); n != 3 || from != offset {
			resp.Body.Close()
			return nil, fault.New(fault.Internal, "the server sent the range %q when asked for %d-", h.Get("Content-Range"), offset)
		}
		s.Offset = from
		if s.Size, err = strconv.ParseInt(total, 10, 64); err != nil {
			s.Size = -1
		}
	}
	return s, nil
}

// Part is how far a download has come. Kept beside the data it lets a later run go on.
type Part struct {
	Offset int64  `json:"offset"` // octets written
	Size   int64  `json:"size"`   // -1 = unknown
	ETag   string `json:"etag"`
	Final  bool   `json:"final"` // nothing will be added to the capture any more
	// Restarted is set when an earlier part had to be thrown away, since its snapshot is gone.
	Restarted bool `json:"-"`
}

// Download writes the data to w from where p says, and goes on by itself after a broken connection as long as there is
// progress. p is kept up to date; report (may be nil) is called after each write and before the first, on this goroutine.
// When the snapshot is gone it begins anew at offset 0, unless w cannot be written at an offset (*Sequential) and has
// octets already. When it returns an error, p says how far it came.
func (c *Client) Download(ctx context.Context, id string, f want.Format, w io.WriterAt, p *Part, report func(Part) error) error {
	for {
		before := p.Offset
		err := c.downloadOnce(ctx, id, f, w, p, report)
		var lost *ConnectError
		if err == nil || !errors.As(err, &lost) || p.Offset <= before || ctx.Err() != nil || p.ETag == "" {
			return err
		}
	}
}

func (c *Client) downloadOnce(ctx context.Context, id string, f want.Format, w io.WriterAt, p *Part, report func(Part) error) error {
	s, err := c.Open(ctx, id, f, p.Offset, p.ETag)
	if err != nil {
		return err
	}
	defer s.Body.Close()
	if s.Offset != p.Offset {
		if _, once := w.(*Sequential); once {
			return fault.New(fault.Conflict, "the download broke after %d octets and its snapshot is gone; begin again", p.Offset)
		}
		p.Restarted = true
	}
	p.Offset, p.Size, p.ETag = s.Offset, s.Size, s.ETag
	if s.Body != http.NoBody || s.Size == 0 { // with nothing left to send the server does not repeat it
		p.Final = s.Final
	}
	if report != nil {
		if err := report(*p); err != nil {
			return err
		}
	}
	buf := make([]byte, 256<<10)
	for {
		n, rerr := s.Body.Read(buf)
		if n > 0 {
			m, err := w.WriteAt(buf[:n], p.Offset)
			p.Offset += int64(m)
			if err != nil {
				return fmt.Errorf("write data: %w", err)
			}
			if report != nil {
				if err := report(*p); err != nil {
					return err
				}
			}
		}
		switch {
		case rerr == io.EOF && p.Size >= 0 && p.Offset != p.Size:
			return &ConnectError{c.base, io.ErrUnexpectedEOF}
		case rerr == io.EOF:
			return nil
		case ctx.Err() != nil: // also when what is left has come already
			return ctx.Err()
		case rerr != nil:
			return &ConnectError{c.base, rerr}
		}
	}
}

// Sequential lets Download write to what has no offsets, such as a pipe.
type Sequential struct {
	W   io.Writer
	off int64
}

// WriteAt implements io.WriterAt for offsets in order.
func (s *Sequential) WriteAt(b []byte, off int64) (int, error) {
	if off != s.off {
		return 0, fmt.Errorf("write at %d: %d octets went out already", off, s.off)
	}
	n, err := s.W.Write(b)
	s.off += int64(n)
	return n, err
}
