package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"strings"
	"time"
	"unicode"

	"opentap/fault"
)

// DefaultProject is the project of tokens and grants that name none.
const DefaultProject = "default"

// Lengths of the parts of a token, ot_<id>_<secret>, both in base32 (RFC 4648 section 6) in lower case.
const (
	idBytes     = 10 // 16 characters; public, it appears in lists and logs
	secretBytes = 32 // 52 characters
)

var coding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Token is what is known of a token: all but its secret.
type Token struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`    // who; unique among tokens that are not revoked
	Role     string    `json:"role"`    // see RightsOf
	Project  string    `json:"project"` // its tenant
	Created  time.Time `json:"created"`
	By       string    `json:"created_by,omitempty"`
	Expires  time.Time `json:"expires,omitzero"`   // zero = never
	Revoked  time.Time `json:"revoked,omitzero"`   // zero = valid
	LastUsed time.Time `json:"last_used,omitzero"` // since this process started, at this controller; zero = not used
}

// record is a token in the store.
//
// Hash is a plain SHA-256 of the secret. A slow, salted hash protects secrets that people choose, which can be guessed
// from a dictionary; ours are 256 random bits, so that no dictionary exists and 2^255 guesses are needed however fast
// each is. A fast hash keeps authentication at a microsecond and gives a flood of wrong tokens nothing to burn.
type record struct {
	Token
	Hash string `json:"sha256"` // hex
}

// mint makes a new token: its id, the text to give away, and its hash.
func mint() (id, text, hash string) {
	var b [idBytes + secretBytes]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	id = coding.EncodeToString(b[:idBytes])
	secret := coding.EncodeToString(b[idBytes:])
	sum := sha256.Sum256([]byte(secret))
	return id, "ot_" + id + "_" + secret, hex.EncodeToString(sum[:])
}

// split takes a token's text apart; false when it is none.
func split(text string) (id, secret string, ok bool) {
	rest, ok := strings.CutPrefix(text, "ot_")
	if !ok || len(rest) != 16+1+52 || rest[16] != '_' {
		return "", "", false
	}
	return rest[:16], rest[17:], true
}

// checkName returns the error of a name that could mislead a reader of lists and logs.
func checkName(field, name string) error {
	if name == "" || len(name) > 64 {
		return fault.Field(field, "%d octets: want 1 to 64", len(name))
	}
	for _, r := range name {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar || r == '/' {
			return fault.Field(field, "character %U is not allowed", r)
		}
	}
	if strings.TrimSpace(name) != name {
		return fault.Field(field, "begins or ends with a space")
	}
	return nil
}
