package fleet

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"opentap/agentapi"
	"opentap/agentapi/agentpb"
	"opentap/cert"
	"opentap/fault"
)

// Keepalives find out that a peer is gone whose connection was not closed.
const (
	keepaliveTime    = 10 * time.Second
	keepaliveTimeout = 5 * time.Second
)

// maxStreams bounds what goes on over one connection: sessions, and data on its way.
const maxStreams = 4096

// Server makes the server for agents and other controllers: TLS 1.3, certificates of this fleet, and for each call the right
// that its method needs. A hub and a relay are to be registered on it; the enrolment is.
func (r *Registry) Server() *grpc.Server {
	opts := append(agentapi.ServerOptions(),
		grpc.MaxConcurrentStreams(maxStreams), grpc.Creds(r.credentials()), grpc.ConnectionTimeout(handshakePatience),
		grpc.UnaryInterceptor(r.unary), grpc.StreamInterceptor(r.stream),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveTime / 2, PermitWithoutStream: true}),
		grpc.ReadBufferSize(4<<10), grpc.WriteBufferSize(8<<10), // agents are many and say little
	)
	s := grpc.NewServer(opts...)
	agentpb.RegisterEnrolmentServer(s, &enrolment{reg: r})
	return s
}

// services by who may call them.
const (
	joinMethod = "/opentap.agent.v1.Enrolment/Join"
	agentsCall = "/opentap.agent.v1.Hub/"
	renewCall  = "/opentap.agent.v1.Enrolment/Renew"
	relayCalls = "/opentap.agent.v1.Relay/"
)

type memberKey struct{}

// allow decides whether a call may be made, and notes in the context who makes it.
func (r *Registry) allow(ctx context.Context, method string) (context.Context, error) {
	if method == joinMethod {
		return ctx, nil
	}
	p, _ := peer.FromContext(ctx)
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return nil, status.Error(codes.Unauthenticated, "a certificate of this fleet is needed; a host gets one by joining")
	}
	m, err := cert.MemberOf(info.State.PeerCertificates[0])
	if err != nil {
		return nil, status.Error(codes.PermissionDenied, err.Error())
	}
	switch {
	case m.Kind == cert.AgentMember && (strings.HasPrefix(method, agentsCall) || method == renewCall):
		if err := r.member(ctx, m, cert.Issued(info.State.PeerCertificates[0])); err != nil {
			return nil, toStatus(err)
		}
		ctx = agentapi.WithPeer(ctx, agentapi.Identity{NodeID: m.ID, NodeName: m.Name})
	case m.Kind == cert.ControllerMember && strings.HasPrefix(method, relayCalls):
	default:
		return nil, status.Errorf(codes.PermissionDenied, "a member of kind %s may not call this", m.Kind)
	}
	return context.WithValue(ctx, memberKey{}, m), nil
}

func (r *Registry) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	ctx, err := r.allow(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return next(ctx, req)
}

// known is a stream whose context says who calls.
type known struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (k *known) Context() context.Context { return k.ctx }

func (r *Registry) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx, err := r.allow(s.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	return next(srv, &known{s, ctx})
}

// toStatus spells a fault for an agent.
func toStatus(err error) error {
	f := &fault.Error{Kind: fault.Internal, Msg: err.Error()}
	errors.As(err, &f)
	text := f.Error()
	if f.Hint != "" {
		text += "; " + f.Hint
	}
	switch f.Kind {
	case fault.Unauthenticated:
		return status.Error(codes.Unauthenticated, text)
	case fault.Forbidden:
		return status.Error(codes.PermissionDenied, text)
	case fault.Invalid:
		return status.Error(codes.InvalidArgument, text)
	case fault.Conflict:
		return status.Error(codes.AlreadyExists, text)
	case fault.Exhausted:
		return status.Error(codes.ResourceExhausted, text)
	case fault.Unavailable:
		return status.Error(codes.Unavailable, text)
	}
	return status.Error(codes.Internal, text)
}

// enrolment serves hosts that join and members that renew.
type enrolment struct {
	agentpb.UnimplementedEnrolmentServer
	reg *Registry
}

func remoteOf(ctx context.Context) netip.AddrPort {
	if p, ok := peer.FromContext(ctx); ok {
		if a, err := netip.ParseAddrPort(p.Addr.String()); err == nil {
			return a
		}
	}
	return netip.AddrPort{}
}

// Join implements agentpb.EnrolmentServer.
func (e *enrolment) Join(ctx context.Context, q *agentpb.JoinRequest) (*agentpb.Membership, error) {
	leaf, err := e.reg.join(ctx, joining{token: q.Token, request: q.Request, id: q.NodeId, name: q.NodeName}, remoteOf(ctx))
	if err != nil {
		return nil, toStatus(err)
	}
	return e.membership(leaf.Raw), nil
}

// Renew implements agentpb.EnrolmentServer.
func (e *enrolment) Renew(ctx context.Context, q *agentpb.RenewRequest) (*agentpb.Membership, error) {
	m, ok := ctx.Value(memberKey{}).(cert.Member)
	if !ok {
		return nil, status.Error(codes.Unauthenticated, "who calls is not known")
	}
	leaf, err := e.reg.renew(ctx, m, q.Request)
	if err != nil {
		return nil, toStatus(err)
	}
	return e.membership(leaf.Raw), nil
}

func (e *enrolment) membership(leaf []byte) *agentpb.Membership {
	return &agentpb.Membership{Certificates: [][]byte{leaf, e.reg.authority.Certificate().Raw}, Controllers: e.reg.addresses()}
}
