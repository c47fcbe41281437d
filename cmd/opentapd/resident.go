package main

import (
	"context"
	"errors"
	"log/slog"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"opentap/agent"
	"opentap/agentapi"
)

// resident is the agent of role all: in the controller's process, and talking to it as that of another host does, but in
// memory.
type resident struct {
	ag     *agent.Agent
	link   *agentapi.Link
	inside *bufconn.Listener
	rpc    *grpc.Server
	cc     *grpc.ClientConn
}

func newResident(cfg config, node string, hub *agentapi.Hub, log *slog.Logger) (*resident, error) {
	ag, err := agent.New(cfg.agent(programVersion(), node), log.With("room", "agent"))
	if err != nil {
		return nil, err
	}
	r := &resident{ag: ag, link: agentapi.NewLink(ag.Identity(), ag, log.With("room", "link")), inside: bufconn.Listen(1 << 20)}
	ag.SetLink(r.link)
	r.rpc = grpc.NewServer(agentapi.ServerOptions()...)
	hub.Register(r.rpc)
	hub.Near(ag.Identity().NodeID, ag)
	r.cc, err = grpc.NewClient("passthrough:///inside", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return r.inside.DialContext(ctx) }))
	return r, err
}

// serve carries the agent's session until stop.
func (r *resident) serve() error {
	if err := r.rpc.Serve(r.inside); !errors.Is(err, grpc.ErrServerStopped) { // we may be asked to go before it has begun
		return named("hub", err)
	}
	return nil
}

func (r *resident) stop() { r.rpc.Stop() }

func (r *resident) close() { _ = r.cc.Close() } // it is ours alone, and nothing is under way
