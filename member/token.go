package member

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"strings"

	"opentap/fault"
)

// Lengths of the parts of a join token, otj_<id>_<secret>_<authority>, all in base32 (RFC 4648 section 6) in lower case.
const (
	idBytes     = 10 // 16 characters; public, it appears in lists and logs
	secretBytes = 32 // 52 characters
)

var coding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Token lets one host join a fleet, once. Whoever has it also knows the fleet's authority, so that the host gives the secret
// to nobody else.
type Token struct {
	ID        string
	Secret    string
	Authority string // its cert.Fingerprint
}

// NewToken makes a token of the fleet with this authority, a cert.Fingerprint.
func NewToken(authority string) Token {
	var b [idBytes + secretBytes]byte
	rand.Read(b[:]) // never fails, crypto/rand
	return Token{ID: coding.EncodeToString(b[:idBytes]), Secret: coding.EncodeToString(b[idBytes:]), Authority: authority}
}

const fingerprintHead = "SHA256:"

// String is the text to give away.
func (t Token) String() string {
	sum, err := base64.RawStdEncoding.DecodeString(strings.TrimPrefix(t.Authority, fingerprintHead))
	if err != nil {
		return ""
	}
	return "otj_" + t.ID + "_" + t.Secret + "_" + coding.EncodeToString(sum)
}

// ParseToken takes a token's text apart. The error names no part of it.
func ParseToken(text string) (Token, error) {
	parts := strings.Split(strings.TrimSpace(text), "_")
	if len(parts) == 4 && parts[0] == "otj" && len(parts[1]) == 16 && len(parts[2]) == 52 {
		sum, err := coding.DecodeString(parts[3])
		_, badID := coding.DecodeString(parts[1])
		_, badSecret := coding.DecodeString(parts[2])
		if err == nil && badID == nil && badSecret == nil && len(sum) == sha256.Size {
			return Token{ID: parts[1], Secret: parts[2], Authority: fingerprintHead + base64.RawStdEncoding.EncodeToString(sum)}, nil
		}
	}
	return Token{}, &fault.Error{
		Kind: fault.Invalid, Field: "join_token", Msg: "this is not a join token, which begins with otj_ and has 126 characters",
		Hint: "an administrator makes one with opentap node join-token",
	}
}
