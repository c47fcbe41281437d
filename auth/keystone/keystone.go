// Package keystone takes the word of an OpenStack Keystone for who has a token.
//
// Runs in: controller
//
// A token is validated as Identity API v3 has it, "Validate and show information for token": GET /v3/auth/tokens with the
// token both as X-Auth-Token and as X-Subject-Token, since a token may look at itself. Its project is the OpenTap project,
// by id, as Neutron names the owner of a port; its roles give the OpenTap role by a table of the configuration.
package keystone

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"opentap/auth"
	"opentap/fault"
)

// Config says which Keystone is believed.
type Config struct {
	URL   string            // with or without /v3
	Roles map[string]string // Keystone's role → ours; nil = DefaultRoles
	Roots *x509.CertPool    // authorities of its certificate; nil = the system's
}

// DefaultRoles are for the roles that every Keystone has. Administrators of the cloud are not administrators here unless the
// configuration says so.
func DefaultRoles() map[string]string {
	return map[string]string{"member": "owner", "reader": "viewer"}
}

// Bounds of what is sent and read. Octets.
const (
	minToken  = 16
	maxToken  = 8 << 10
	maxAnswer = 1 << 20
)

const requestTimeout = 10 * time.Second

// Validator is one Keystone. It is safe for concurrent use.
type Validator struct {
	url    string
	roles  map[string]string
	client *http.Client
}

// New checks the configuration. It is inert.
func New(cfg Config) (*Validator, error) {
	u, err := url.Parse(cfg.URL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("url: %q is not a URL", cfg.URL)
	case u.User != nil || u.RawQuery != "":
		return nil, errors.New("url: it has more than an address and a path")
	}
	if cfg.Roles == nil {
		cfg.Roles = DefaultRoles()
	}
	for theirs, ours := range cfg.Roles {
		if _, err := auth.RightsOf(ours); err != nil {
			return nil, fmt.Errorf("roles: %s: %w", theirs, err)
		}
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.Roots}
	return &Validator{
		url: strings.TrimSuffix(strings.TrimSuffix(cfg.URL, "/"), "/v3") + "/v3/auth/tokens?nocatalog", roles: cfg.Roles,
		client: &http.Client{
			Timeout: requestTimeout, Transport: transport,
			CheckRedirect: func(*http.Request, []*http.Request) error {
				return errors.New("it sends us elsewhere, where the token must not go")
			},
		},
	}, nil
}

// Close lets go of the connections.
func (v *Validator) Close() { v.client.CloseIdleConnections() }

// Recognises implements auth.Verifier: Keystone's tokens are opaque, so it may be any text of letters, digits and -_=. that
// is not one of ours.
func (v *Validator) Recognises(token string) bool {
	if len(token) < minToken || len(token) > maxToken {
		return false
	}
	for _, own := range []string{"ot_", "os_", "oc_", "otj_"} {
		if strings.HasPrefix(token, own) {
			return false
		}
	}
	for _, ch := range []byte(token) {
		ok := ch >= 'a' && ch <= 'z' || ch >= 'A' && ch <= 'Z' || ch >= '0' && ch <= '9' || strings.IndexByte("-_=.+/", ch) >= 0
		if !ok {
			return false
		}
	}
	return true
}

// answer is what is read of Keystone's answer.
type answer struct {
	Token struct {
		ExpiresAt time.Time `json:"expires_at"`
		User      named     `json:"user"`
		Project   *named    `json:"project"` // nil: the token is scoped to no project
		Roles     []named   `json:"roles"`
	} `json:"token"`
}

type named struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// strength orders our roles.
var strength = map[string]int{"viewer": 1, "operator": 2, "analyst": 3, "owner": 4, "admin": 5}

// Verify implements auth.Verifier.
func (v *Validator) Verify(ctx context.Context, token string) (id auth.Identity, until time.Time, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, v.url, http.NoBody)
	if err != nil {
		return id, until, err
	}
	req.Header.Set("X-Auth-Token", token)
	req.Header.Set("X-Subject-Token", token)
	req.Header.Set("Accept", "application/json")
	resp, err := v.client.Do(req)
	if err != nil {
		return id, until, away(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusForbidden:
		return id, until, fault.New(fault.Unauthenticated, "Keystone does not take the token")
	case err != nil:
		return id, until, away(err)
	case resp.StatusCode != http.StatusOK:
		return id, until, away(fmt.Errorf("it answers %s", resp.Status))
	}
	var a answer
	if err := json.Unmarshal(body, &a); err != nil {
		return id, until, away(fmt.Errorf("its answer cannot be read: %w", err))
	}
	return v.identity(&a)
}

func away(err error) error {
	return &fault.Error{Kind: fault.Unavailable, Msg: "Keystone does not answer", Err: err, RetryAfter: 5 * time.Second}
}

func (v *Validator) identity(a *answer) (id auth.Identity, until time.Time, err error) {
	t := &a.Token
	switch {
	case t.User.ID == "" || t.User.Name == "" || t.ExpiresAt.IsZero():
		return id, until, away(errors.New("its answer names no user, or no end of the token"))
	case t.Project == nil || t.Project.ID == "":
		return id, until, &fault.Error{Kind: fault.Unauthenticated, Msg: "the Keystone token is for no project", Hint: "ask for one that is scoped to a project"}
	}
	for _, r := range t.Roles {
		if ours := v.roles[r.Name]; strength[ours] > strength[id.Role] {
			id.Role = ours
		}
	}
	if id.Role == "" {
		return id, until, fault.New(fault.Unauthenticated, "none of the roles of %s in the project %s has a meaning here", t.User.Name, t.Project.Name)
	}
	id.Name, id.Project, id.Via = t.User.Name, t.Project.ID, "keystone"
	return id, t.ExpiresAt, nil
}
