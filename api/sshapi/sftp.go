package sshapi

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"opentap/auth"
	"opentap/fault"
	"opentap/report"
	"opentap/want"
)

// Limits of one SFTP session.
const (
	maxHandles   = 32
	maxSnapshots = 256              // remembered
	snapshotLife = 60 * time.Second // how long what was shown of a file that grows is what opening it gives
	listWidth    = 8                // captures whose size is asked for at one time
)

// capturesDir is the one directory there is.
const capturesDir = "/captures"

// sizes remembers the sizes of data that changes no more. Safe for concurrent use.
type sizes struct {
	mu   sync.Mutex
	of   map[string]int64
	most int
}

func newSizes() *sizes { return &sizes{of: make(map[string]int64), most: 4096} }

func (z *sizes) get(key string) (int64, bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	n, ok := z.of[key]
	return n, ok
}

func (z *sizes) put(key string, n int64) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if len(z.of) >= z.most {
		clear(z.of)
	}
	z.of[key] = n
}

// files is one SFTP session: captures as files that can be read.
type files struct {
	c   *conn
	ctx context.Context

	mu      sync.Mutex
	handles int
	shown   map[string]snapshot // by name
}

// snapshot is what was shown of a file.
type snapshot struct {
	etag string
	at   time.Time
}

// transfer runs the sftp subsystem.
func (c *conn) transfer(ctx context.Context, ch ssh.Channel) int {
	c.begin() // until the first word
	ended := sync.OnceFunc(c.end)
	defer ended()
	select {
	case c.s.transfers <- struct{}{}:
		defer func() { <-c.s.transfers }()
	default:
		_, _ = io.WriteString(ch.Stderr(), "opentap: too many SFTP sessions; try again later\n")
		return report.ExitUnavailable
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := &files{c: c, ctx: ctx, shown: make(map[string]snapshot)}
	wire := struct {
		io.Reader
		io.Writer
		io.Closer
	}{&touching{ch, c, ended}, &outlet{w: ch, ch: ch, c: c, cancel: cancel}, ch}
	server := sftp.NewRequestServer(wire, sftp.Handlers{FileGet: f, FilePut: f, FileCmd: f, FileList: f})
	stop := context.AfterFunc(ctx, func() { _ = ch.Close(); _ = server.Close() })
	defer stop()
	if err := server.Serve(); err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
		c.s.log.Debug("sftp session broke", "remote", c.remote, "err", err)
		return report.ExitError
	}
	return report.ExitOK
}

// touching tells the connection of what comes.
type touching struct {
	r     io.Reader
	c     *conn
	ended func()
}

func (t *touching) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.ended() // from now on it is what comes that counts
	t.c.touch()
	return n, err
}

// name is a capture's file name in a format. What an id may hold and a name must not is escaped as in URLs.
func fileName(id string, f want.Format) string {
	name := url.PathEscape(id)
	if strings.HasPrefix(name, ".") {
		name = "%2E" + name[1:]
	}
	if f == want.Classic {
		return name + ".classic.csv"
	}
	return name + f.Extension()
}

// capture finds what a path names.
func (f *files) capture(ctx context.Context, p string) (id auth.Identity, v want.View, format want.Format, err error) {
	if id, err = f.c.ask(ctx); err != nil {
		return id, v, "", err
	}
	dir, name := path.Split(p)
	if dir != capturesDir+"/" {
		return id, v, "", os.ErrNotExist
	}
	for _, format := range []want.Format{want.Classic, want.PcapNG, want.Pcap, want.CSV, want.NDJSON, want.Parquet, want.Arrow} {
		suffix := fileName("", format)
		stem, ok := strings.CutSuffix(name, suffix)
		if !ok || stem == "" {
			continue
		}
		capture, uerr := url.PathUnescape(stem)
		if uerr != nil || fileName(capture, format) != name { // one name each
			continue
		}
		v, err = f.c.s.ctl.Capture(ctx, id, capture)
		switch {
		case fault.Is(err, fault.NotFound), err == nil && !slices.Contains(v.Formats, format):
			continue
		default:
			return id, v, format, err
		}
	}
	return id, v, "", os.ErrNotExist
}

// open opens the snapshot that was shown last under the name, or a new one.
func (f *files) open(ctx context.Context, id auth.Identity, v *want.View, format want.Format) (*want.Retrieval, error) {
	name := fileName(v.UID, format)
	f.mu.Lock()
	s, ok := f.shown[name]
	f.mu.Unlock()
	o := want.OpenOptions{Format: format}
	if ok && time.Since(s.at) < snapshotLife {
		o.ETag = s.etag
	}
	rt, err := f.c.s.ctl.OpenCapture(ctx, id, v.ID, o)
	if err != nil {
		return nil, err
	}
	if rt.Size < 0 {
		return nil, errors.Join(fault.New(fault.Unsupported, "the size of this data is not known beforehand; retrieve streams it"), rt.Close())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.shown) >= maxSnapshots {
		clear(f.shown)
	}
	if o.ETag == "" || o.ETag != rt.ETag {
		f.shown[name] = snapshot{rt.ETag, time.Now()}
	}
	if rt.Final {
		f.c.s.sizes.put(name, rt.Size)
	}
	return rt, nil
}

// size is the file's size as opening it will give it; 0 for who may not open it.
func (f *files) size(ctx context.Context, id auth.Identity, v *want.View, format want.Format) (int64, error) {
	if !id.May(auth.ReadPayload) {
		return 0, nil
	}
	if v.Status.State.Final() {
		if n, ok := f.c.s.sizes.get(fileName(v.UID, format)); ok {
			return n, nil
		}
	}
	rt, err := f.open(ctx, id, v, format)
	if err != nil {
		return 0, err
	}
	return rt.Size, rt.Close()
}

// hold takes one of the session's handles.
func (f *files) hold() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.handles >= maxHandles {
		return fmt.Errorf("a session may have %d files open", maxHandles)
	}
	f.handles++
	return nil
}

func (f *files) unhold() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.handles--
}

// tell turns an error into what the client gets.
func (f *files) tell(err error) error {
	var e *fault.Error
	switch {
	case err == nil, errors.Is(err, os.ErrNotExist), errors.Is(err, sftp.ErrSSHFxOpUnsupported):
		return err
	case f.ctx.Err() != nil:
		return sftp.ErrSSHFxConnectionLost
	case !errors.As(err, &e) || e.Kind == fault.Internal:
		ref := rand.Text()
		f.c.s.log.Error("sftp request failed", "remote", f.c.remote, "reference", ref, "err", err)
		return fmt.Errorf("internal error; the log has the details under reference %s", ref)
	case e.Kind == fault.NotFound:
		return os.ErrNotExist
	case e.Kind == fault.Forbidden, e.Kind == fault.Unauthenticated:
		return sftp.ErrSSHFxPermissionDenied
	}
	return errors.New(report.Clean(e.Msg))
}

// Fileread implements sftp.FileReader.
func (f *files) Fileread(r *sftp.Request) (io.ReaderAt, error) {
	if p := r.Pflags(); p.Write || p.Append || p.Creat || p.Trunc {
		return nil, sftp.ErrSSHFxPermissionDenied
	}
	id, v, format, err := f.capture(f.ctx, r.Filepath)
	if err != nil {
		return nil, f.tell(err)
	}
	if err := f.hold(); err != nil {
		return nil, err
	}
	rt, err := f.open(f.ctx, id, &v, format)
	if err != nil {
		f.unhold()
		return nil, f.tell(err)
	}
	f.c.s.log.Info("sftp file opened", "who", id.Name, "capture", v.ID, "format", format, "octets", rt.Size, "remote", f.c.remote)
	return &told{newSnapshotFile(f.ctx, rt, f.unhold), f}, nil
}

// told is a file whose errors are fit for the client.
type told struct {
	*snapshotFile
	f *files
}

func (t *told) ReadAt(p []byte, off int64) (int, error) {
	n, err := t.snapshotFile.ReadAt(p, off)
	if err != nil && err != io.EOF {
		err = t.f.tell(err)
	}
	return n, err
}

// Filewrite implements sftp.FileWriter: nothing can be written.
func (f *files) Filewrite(*sftp.Request) (io.WriterAt, error) {
	return nil, sftp.ErrSSHFxPermissionDenied
}

// Filecmd implements sftp.FileCmder: nothing can be changed.
func (f *files) Filecmd(*sftp.Request) error { return sftp.ErrSSHFxPermissionDenied }

// Filelist implements sftp.FileLister.
func (f *files) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	switch r.Method {
	case "List":
		if err := f.hold(); err != nil {
			return nil, err
		}
		list, err := f.list(f.ctx, r.Filepath)
		if err != nil {
			f.unhold()
			return nil, f.tell(err)
		}
		return &listing{list: list, close: sync.OnceFunc(f.unhold)}, nil
	case "Stat":
		st, err := f.stat(f.ctx, r.Filepath)
		if err != nil {
			return nil, f.tell(err)
		}
		return &listing{list: []os.FileInfo{st}, close: func() {}}, nil
	}
	return nil, sftp.ErrSSHFxOpUnsupported
}

// Lstat implements sftp.LstatFileLister: there are no links.
func (f *files) Lstat(r *sftp.Request) (sftp.ListerAt, error) {
	st, err := f.stat(f.ctx, r.Filepath)
	if err != nil {
		return nil, f.tell(err)
	}
	return &listing{list: []os.FileInfo{st}, close: func() {}}, nil
}

func (f *files) stat(ctx context.Context, p string) (os.FileInfo, error) {
	if p == "/" || p == capturesDir {
		return &info{name: path.Base(p), dir: true}, nil
	}
	id, v, format, err := f.capture(ctx, p)
	if err != nil {
		return nil, err
	}
	n, err := f.size(ctx, id, &v, format)
	if err != nil {
		return nil, err
	}
	return infoOf(&v, format, n), nil
}

// list is a directory's content: of each capture that has begun, its data in the kind's first format.
func (f *files) list(ctx context.Context, p string) ([]os.FileInfo, error) {
	id, err := f.c.ask(ctx)
	switch {
	case err != nil:
		return nil, err
	case p == "/":
		return []os.FileInfo{&info{name: path.Base(capturesDir), dir: true}}, nil
	case p != capturesDir:
		return nil, os.ErrNotExist
	}
	views, err := f.c.s.ctl.Captures(ctx, id)
	if err != nil {
		return nil, err
	}
	var all []os.FileInfo
	var mu sync.Mutex // of all
	var wg sync.WaitGroup
	places := make(chan struct{}, listWidth)
	for i := range views {
		v := &views[i]
		if v.Status.State == want.Scheduled {
			continue
		}
		for _, format := range v.Formats {
			places <- struct{}{}
			wg.Go(func() {
				defer func() { <-places }()
				n, err := f.size(ctx, id, v, format)
				if err != nil || n < 0 { // of a node that is away nothing can be had
					return
				}
				mu.Lock()
				defer mu.Unlock()
				all = append(all, infoOf(v, format, n))
			})
		}
	}
	wg.Wait()
	slices.SortFunc(all, func(a, b os.FileInfo) int { return strings.Compare(a.Name(), b.Name()) })
	return all, ctx.Err()
}

// listing gives a list out in parts.
type listing struct {
	list  []os.FileInfo
	close func()
}

// ListAt implements sftp.ListerAt.
func (l *listing) ListAt(to []os.FileInfo, offset int64) (int, error) {
	if offset < 0 || offset >= int64(len(l.list)) {
		return 0, io.EOF
	}
	n := copy(to, l.list[offset:])
	if n < len(to) {
		return n, io.EOF
	}
	return n, nil
}

// Close gives the handle back.
func (l *listing) Close() error {
	l.close()
	return nil
}

// info is a file or directory as it is shown.
type info struct {
	name string
	size int64
	time time.Time
	dir  bool
}

func infoOf(v *want.View, format want.Format, size int64) *info {
	at := v.Status.Ended
	if at.IsZero() {
		at = v.Status.Updated
	}
	return &info{name: fileName(v.ID, format), size: size, time: at}
}

func (i *info) Name() string { return i.name }
func (i *info) Size() int64  { return i.size }
func (i *info) Mode() os.FileMode {
	if i.dir {
		return os.ModeDir | 0o555
	}
	return 0o444
}
func (i *info) ModTime() time.Time { return i.time }
func (i *info) IsDir() bool        { return i.dir }
func (i *info) Sys() any           { return nil }
