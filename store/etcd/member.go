package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/config"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/features"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap/zapcore"

	"opentap/store"
)

// The embedded member's identity. Nobody ever dials the address: the member has no peers and no listener.
const (
	memberName = "opentap"
	memberURL  = "http://127.0.0.1:1"
	token      = "opentap-store"
)

// A lone member wins every election against nobody, so that its clock can be short: it leads one or two ticks after
// it starts. A late tick costs nothing.
const (
	tickMillis    = 50
	electionTicks = 2
)

// logSegmentBytes is the size of the log files, which are allocated beforehand, two at a time. etcd's own is 64 MB.
const logSegmentBytes = 16 << 20

// setLogSegment sets etcd's process-wide variable once, before its first use.
var setLogSegment = sync.OnceFunc(func() { wal.SegmentSizeBytes = logSegmentBytes })

// member is the embedded etcd server.
type member struct {
	dir    string
	lock   *os.File
	server *etcdserver.EtcdServer
	client *clientv3.Client

	once    sync.Once
	failed  chan struct{} // closed by fail
	mu      sync.Mutex
	failErr error
}

// fail notes that the member is dead. The first reason stays.
func (m *member) fail(err error) {
	m.once.Do(func() {
		m.mu.Lock()
		m.failErr = err
		m.mu.Unlock()
		close(m.failed)
	})
}

func (m *member) failure() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failErr
}

// fatalHook ends the goroutine instead of the process. etcd asks for the end of the process when it cannot go on
// safely, for instance when its log cannot be written; here the member is dead then, and captures go on without it.
type fatalHook func(msg string, fields map[string]any)

// OnWrite implements zapcore.CheckWriteHook.
func (h fatalHook) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	h(e.Message, encode(fields))
	runtime.Goexit()
}

func startMember(ctx context.Context, cfg Config, log *slog.Logger) (*member, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", cfg.Dir, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open store: make directory: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open store: close directory to others: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	m := &member{dir: dir, lock: lock, failed: make(chan struct{})}
	if err := prepare(dir); err != nil {
		lock.Close()
		return nil, err
	}
	if err := checkDatabase(dir); err != nil {
		lock.Close()
		return nil, err
	}
	timeout := cfg.StartTimeout
	if timeout <= 0 {
		timeout = 30 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := m.start(ctx, cfg, log); err != nil {
		m.stop()
		return nil, err
	}
	if err := markReady(dir); err != nil {
		m.stop()
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	return m, nil
}

func (m *member) start(ctx context.Context, cfg Config, log *slog.Logger) error {
	lg := zapTo(log, func(msg string, fields map[string]any) {
		var cause error
		if text, ok := fields["error"].(string); ok {
			cause = errors.New(text)
		}
		m.fail(&DamagedError{Dir: m.dir, Msg: msg, Err: cause})
	})
	urls := types.MustNewURLs([]string{memberURL})
	history := cfg.History
	if history <= 0 {
		history = time.Hour
	}
	quota := cfg.QuotaBytes
	if quota <= 0 {
		quota = 1 << 30
	}
	sc := config.ServerConfig{
		Name:                        memberName,
		PeerURLs:                    urls,
		InitialPeerURLsMap:          types.URLsMap{memberName: urls},
		InitialClusterToken:         token,
		NewCluster:                  true,
		DataDir:                     m.dir,
		TickMs:                      tickMillis,
		ElectionTicks:               electionTicks,
		SnapshotCount:               5000,
		SnapshotCatchUpEntries:      100, // no follower ever catches up
		MaxSnapFiles:                2,
		MaxWALFiles:                 2,
		AutoCompactionMode:          "periodic",
		AutoCompactionRetention:     history,
		QuotaBackendBytes:           quota,
		MaxTxnOps:                   store.MaxTxnOps,
		MaxRequestBytes:             store.MaxTxnBytes + 256<<10, // room for the framing of many small operations
		MaxConcurrentStreams:        1 << 20,
		WarningApplyDuration:        time.Second,
		WarningUnaryRequestDuration: 2 * time.Second,
		DowngradeCheckTime:          time.Minute,
		CompactHashCheckTime:        time.Hour,
		MaxLearners:                 membership.DefaultMaxLearners,
		BcryptCost:                  4, // unused: the member has no users
		V2Deprecation:               config.V2DeprDefault,
		ServerFeatureGate:           features.NewDefaultServerFeatureGate(memberName, lg),
		Metrics:                     "basic",
		Logger:                      lg,
		// A start after much deletion gives the space back.
		BootstrapDefragThresholdMegabytes: 64,
	}
	setLogSegment()
	made := make(chan struct{})
	var server *etcdserver.EtcdServer
	var err error
	go func() {
		defer close(made)
		defer func() {
			if r := recover(); r != nil {
				m.fail(&DamagedError{Dir: m.dir, Msg: fmt.Sprint(r)})
			}
		}()
		server, err = etcdserver.NewServer(sc)
	}()
	select {
	case <-made:
	case <-m.failed: // it may be a goroutine of etcd's that ended, which NewServer then awaits for ever
	case <-ctx.Done():
		return fmt.Errorf("open store %s: %w while reading it", m.dir, context.Cause(ctx))
	}
	if ferr := m.failure(); ferr != nil {
		return ferr
	}
	<-made
	if err != nil {
		if strings.Contains(err.Error(), "permission denied") || strings.Contains(err.Error(), "no space left") {
			return fmt.Errorf("open store %s: %w", m.dir, err)
		}
		return &DamagedError{Dir: m.dir, Msg: "etcd does not start", Err: err}
	}
	m.server = server
	server.Start()
	select {
	case <-server.ReadyNotify():
	case <-m.failed:
		return m.failure()
	case <-server.StopNotify():
		return fmt.Errorf("open store %s: etcd stopped while starting", m.dir)
	case <-ctx.Done():
		return fmt.Errorf("open store %s: %w before it was ready", m.dir, context.Cause(ctx))
	}
	m.client = v3client.New(server)
	return nil
}

// stopPatience is how long stop waits for a member that has failed, and may hang on its disk.
const stopPatience = 3 * time.Second

// stop ends the member and lets go of the directory. A failed member that does not end keeps its directory locked
// until the process ends.
func (m *member) stop() error {
	if m.server != nil {
		done := make(chan struct{})
		go func() {
			defer close(done)
			if m.client != nil {
				m.client.Close()
			}
			m.server.Stop()
		}()
		var patience <-chan time.Time
		if m.failure() != nil {
			t := time.NewTimer(stopPatience)
			defer t.Stop()
			patience = t.C
		}
		select {
		case <-done:
		case <-patience:
			return fmt.Errorf("close store %s: failed member does not stop: %w", m.dir, m.failure())
		}
	}
	return m.lock.Close()
}
