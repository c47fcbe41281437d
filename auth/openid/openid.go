// Package openid takes the word of an OpenID Connect provider for who a caller is.
//
// Runs in: controller
//
// Callers send the provider's signed tokens (ID tokens, or access tokens that are JWTs), or come with a browser by the
// authorization code flow with PKCE. What a caller may do follows from the token's claims by rules of the configuration:
// without a rule that fits he is nobody. Keys are the provider's, found by discovery and kept; tokens signed by none, by
// another issuer, for another audience, too old or from the future are refused.
package openid

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"opentap/auth"
	"opentap/fault"
)

// Config says which provider is believed, and what its users may do.
type Config struct {
	Name         string // of the provider, for people
	Issuer       string // its URL, as it says in its tokens
	ClientID     string // who we are there
	ClientSecret string // for the code flow; "" = we are a public client
	Audiences    []string
	NameClaim    string // whose value is the user's name; "" = preferred_username, else email, else sub
	Scopes       []string
	Rules        []Rule
	Roots        *x509.CertPool // authorities of the provider's certificate; nil = the system's
	Now          func() time.Time
}

// Rule gives a role to those whose token has a claim.
type Rule struct {
	Claim        string // dots go into objects: realm_access.roles
	Value        string // of the claim, or one of its values; "*" = any
	Role         string // viewer, operator, analyst, owner, admin
	Project      string // "" = default
	ProjectClaim string // the project is this claim's value instead
}

// requestTimeout bounds a request to the provider.
const requestTimeout = 10 * time.Second

// maxToken bounds a token that is looked at. Octets.
const maxToken = 16 << 10

// Provider is one OpenID Connect provider. It is safe for concurrent use.
type Provider struct {
	cfg    Config
	log    *slog.Logger
	client *http.Client

	mu       sync.Mutex
	found    *oidc.Provider // nil until discovery has worked
	tried    time.Time
	triedErr error
}

// New checks the configuration. It is inert: the provider is asked when it is needed first.
func New(cfg Config, log *slog.Logger) (*Provider, error) {
	u, err := url.Parse(cfg.Issuer)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("issuer: %q is not a URL", cfg.Issuer)
	case u.Scheme == "http" && u.Hostname() != "localhost" && u.Hostname() != "127.0.0.1" && u.Hostname() != "::1":
		return nil, fmt.Errorf("issuer: %s: keys that come without TLS prove nothing", cfg.Issuer)
	case cfg.ClientID == "":
		return nil, errors.New("client_id is missing")
	case len(cfg.Rules) == 0:
		return nil, errors.New("rules are missing: without one nobody may do anything")
	}
	for i, r := range cfg.Rules {
		if _, err := auth.RightsOf(r.Role); err != nil {
			return nil, fmt.Errorf("rules[%d]: %w", i, err)
		}
		if r.Claim == "" || r.Value == "" {
			return nil, fmt.Errorf("rules[%d]: claim and value are both needed", i)
		}
		if r.Project != "" && r.ProjectClaim != "" {
			return nil, fmt.Errorf("rules[%d]: project and project_claim exclude each other", i)
		}
	}
	if cfg.Name == "" {
		cfg.Name = u.Host
	}
	if len(cfg.Audiences) == 0 {
		cfg.Audiences = []string{cfg.ClientID}
	}
	if len(cfg.Scopes) == 0 {
		cfg.Scopes = []string{oidc.ScopeOpenID, "profile", "email"}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.Roots}
	return &Provider{cfg: cfg, log: log, client: &http.Client{Timeout: requestTimeout, Transport: transport}}, nil
}

// Name is what people call the provider.
func (p *Provider) Name() string { return p.cfg.Name }

// Close lets go of the connections to the provider.
func (p *Provider) Close() { p.client.CloseIdleConnections() }

// provider finds the provider's keys and addresses, once it answers; meanwhile it is not asked more often than once in some
// seconds.
func (p *Provider) provider(ctx context.Context) (*oidc.Provider, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.found != nil {
		return p.found, nil
	}
	if p.triedErr != nil && p.cfg.Now().Sub(p.tried) < 5*time.Second {
		return nil, p.away(p.triedErr)
	}
	// What it finds lives longer than the request that wanted it first.
	found, err := oidc.NewProvider(oidc.ClientContext(context.WithoutCancel(ctx), p.client), p.cfg.Issuer)
	p.tried, p.triedErr = p.cfg.Now(), err
	if err != nil {
		p.log.Warn("an identity provider does not answer", "provider", p.cfg.Name, "issuer", p.cfg.Issuer, "err", err)
		return nil, p.away(err)
	}
	p.found = found
	return found, nil
}

func (p *Provider) away(err error) error {
	return &fault.Error{Kind: fault.Unavailable, Msg: "the identity provider " + p.cfg.Name + " does not answer", Err: err, RetryAfter: 5 * time.Second}
}

// Recognises implements auth.Verifier: a token that says that it is this provider's.
func (p *Provider) Recognises(token string) bool {
	if len(token) > maxToken || strings.Count(token, ".") != 2 {
		return false
	}
	_, rest, _ := strings.Cut(token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	b, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return false
	}
	var c struct {
		Issuer string `json:"iss"`
	}
	return json.Unmarshal(b, &c) == nil && c.Issuer == p.cfg.Issuer
}

// Verify implements auth.Verifier.
func (p *Provider) Verify(ctx context.Context, token string) (auth.Identity, time.Time, error) {
	claims, until, err := p.verify(ctx, token, "")
	if err != nil {
		return auth.Identity{}, time.Time{}, err
	}
	id, err := p.identity(claims, auth.WantedProject(ctx))
	return id, until, err
}

// verify checks a token. nonce is that of the flow it came by; "" = it came by none.
func (p *Provider) verify(ctx context.Context, token, nonce string) (claims map[string]any, until time.Time, err error) {
	found, err := p.provider(ctx)
	if err != nil {
		return nil, until, err
	}
	// The audience is checked below: there may be several.
	v := found.Verifier(&oidc.Config{SkipClientIDCheck: true, Now: p.cfg.Now})
	t, err := v.Verify(oidc.ClientContext(ctx, p.client), token)
	if err != nil {
		var expired *oidc.TokenExpiredError
		switch {
		case errors.As(err, &expired):
			return nil, until, fault.New(fault.Unauthenticated, "the token expired on %s", expired.Expiry.UTC().Format(time.RFC3339))
		case strings.Contains(err.Error(), "fetching keys"):
			return nil, until, p.away(err)
		}
		return nil, until, &fault.Error{Kind: fault.Unauthenticated, Msg: "the token of " + p.cfg.Name + " is not valid", Err: err}
	}
	if !slices.ContainsFunc(p.cfg.Audiences, func(a string) bool { return slices.Contains(t.Audience, a) }) {
		return nil, until, fault.New(fault.Unauthenticated, "the token is for somebody else")
	}
	if nonce != "" && t.Nonce != nonce {
		return nil, until, fault.New(fault.Unauthenticated, "the token was not made for this sign-in")
	}
	if err := t.Claims(&claims); err != nil {
		return nil, until, fault.New(fault.Unauthenticated, "the claims of the token cannot be read")
	}
	// A number of seconds since 1970 that lies ahead: the token is not valid yet (RFC 7519 section 4.1.5).
	if nbf, ok := claims["nbf"].(float64); ok && p.cfg.Now().Add(time.Minute).Before(time.Unix(int64(nbf), 0)) {
		return nil, until, fault.New(fault.Unauthenticated, "the token is not valid yet")
	}
	return claims, t.Expiry, nil
}

// identity applies the rules: the first that fits, and of those for several projects that of the wanted one.
func (p *Provider) identity(claims map[string]any, wanted string) (auth.Identity, error) {
	id := auth.Identity{Via: "oidc " + p.cfg.Name}
	names := []string{p.cfg.NameClaim}
	if p.cfg.NameClaim == "" {
		names = []string{"preferred_username", "email", "sub"}
	}
	for _, n := range names {
		if v := values(claims, n); id.Name == "" && len(v) == 1 {
			id.Name = v[0]
		}
	}
	if id.Name == "" {
		return id, fault.New(fault.Unauthenticated, "the token says nobody's name")
	}
	for _, r := range p.cfg.Rules {
		have := values(claims, r.Claim)
		if r.Value != "*" && !slices.Contains(have, r.Value) || len(have) == 0 {
			continue
		}
		projects := []string{r.Project}
		if r.Project == "" {
			projects[0] = auth.DefaultProject
		}
		if r.ProjectClaim != "" {
			projects = values(claims, r.ProjectClaim)
		}
		for _, project := range projects {
			if wanted == "" || project == wanted {
				id.Role, id.Project = r.Role, project
				return id, nil
			}
		}
	}
	if wanted != "" {
		return id, fault.New(fault.Unauthenticated, "%s has no role in the project %s", id.Name, wanted)
	}
	return id, &fault.Error{Kind: fault.Unauthenticated, Msg: id.Name + " has no role here", Hint: "an administrator gives roles by rules for the claims of " + p.cfg.Name}
}

// values are those of a claim: a text, a number, a truth, or a list of them.
func values(claims map[string]any, path string) []string {
	if path == "" {
		return nil
	}
	var v any = claims
	if whole, ok := claims[path]; ok { // names of claims may have dots: they are often URLs
		v = whole
	} else {
		for part := range strings.SplitSeq(path, ".") {
			m, ok := v.(map[string]any)
			if !ok {
				return nil
			}
			v = m[part]
		}
	}
	switch v := v.(type) {
	case []any:
		var out []string
		for _, x := range v {
			if s, ok := x.(string); ok {
				out = append(out, s)
			}
		}
		return out
	case string:
		return []string{v}
	case float64, bool:
		return []string{fmt.Sprint(v)}
	}
	return nil
}

// flow is a sign-in under way, kept in the browser that began it.
type flow struct {
	State    string `json:"s"`
	Nonce    string `json:"n"`
	Verifier string `json:"v"` // of PKCE, RFC 7636
	Redirect string `json:"r"` // where the provider sends the browser back
	Project  string `json:"j,omitempty"`
}

func (p *Provider) oauth(found *oidc.Provider, redirect string) *oauth2.Config {
	return &oauth2.Config{ClientID: p.cfg.ClientID, ClientSecret: p.cfg.ClientSecret, Endpoint: found.Endpoint(), RedirectURL: redirect, Scopes: p.cfg.Scopes}
}

// Start begins a sign-in: the browser goes to the URL, and keeps what is to be given to Finish.
func (p *Provider) Start(ctx context.Context, redirect, project string) (to string, kept []byte, err error) {
	found, err := p.provider(ctx)
	if err != nil {
		return "", nil, err
	}
	f := flow{State: oauth2.GenerateVerifier(), Nonce: oauth2.GenerateVerifier(), Verifier: oauth2.GenerateVerifier(), Redirect: redirect, Project: project}
	kept, err = json.Marshal(f)
	return p.oauth(found, redirect).AuthCodeURL(f.State, oidc.Nonce(f.Nonce), oauth2.S256ChallengeOption(f.Verifier)), kept, err
}

// Finish ends a sign-in by what the provider gave to the browser.
func (p *Provider) Finish(ctx context.Context, kept []byte, state, code string) (auth.Identity, error) {
	var f flow
	if json.Unmarshal(kept, &f) != nil || f.State == "" || f.Nonce == "" || subtle.ConstantTimeCompare([]byte(f.State), []byte(state)) != 1 {
		return auth.Identity{}, &fault.Error{Kind: fault.Unauthenticated, Msg: "this sign-in was not begun here, or too long ago", Hint: "begin anew"}
	}
	found, err := p.provider(ctx)
	if err != nil {
		return auth.Identity{}, err
	}
	t, err := p.oauth(found, f.Redirect).Exchange(oidc.ClientContext(ctx, p.client), code, oauth2.VerifierOption(f.Verifier))
	if err != nil {
		var refused *oauth2.RetrieveError
		if errors.As(err, &refused) {
			return auth.Identity{}, &fault.Error{Kind: fault.Unauthenticated, Msg: p.cfg.Name + " does not take the code", Err: err}
		}
		return auth.Identity{}, p.away(err)
	}
	raw, ok := t.Extra("id_token").(string)
	if !ok || len(raw) > maxToken {
		return auth.Identity{}, fault.New(fault.Unauthenticated, "%s gave no ID token", p.cfg.Name)
	}
	claims, _, err := p.verify(ctx, raw, f.Nonce)
	if err != nil {
		return auth.Identity{}, err
	}
	return p.identity(claims, f.Project)
}
