package session

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Server takes the connections of switches.
type Server struct {
	cfg     Config
	handler Handler
	log     *slog.Logger
}

// NewServer makes a server. It touches nothing; Run does.
func NewServer(cfg Config, h Handler, log *slog.Logger) *Server {
	return &Server{cfg: cfg, handler: h, log: log}
}

// Run takes connections until ctx ends, closes the listener, ends all sessions and waits for them. TLS is the listener's
// business (crypto/tls.NewListener).
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		<-ctx.Done()
		l.Close()
	})
	room := make(chan struct{}, s.cfg.Switches)
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			s.log.Warn("cannot take a switch's connection", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		select {
		case room <- struct{}{}:
		default:
			s.handler.Refused(conn.RemoteAddr(), errors.New("too many switches are connected"))
			conn.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-room }()
			session := New(conn, s.cfg, s.handler, s.log)
			if err := session.Run(ctx); err != nil && ctx.Err() == nil {
				s.log.Info("a switch's connection ended", "address", conn.RemoteAddr().String(), "why", err)
			}
		})
	}
}
