package tap

import (
	"crypto/sha1"
	"encoding/hex"
)

// portSpace is the name space of the ids of ports that nobody named: UUIDv5 (RFC 9562 section 5.5) in it.
const portSpace = "7a5cf1a6-52c1-4a0c-9f9d-3a1d0f7e2b11"

// IsUUID reports whether s is a UUID in its canonical form, letters of either case.
func IsUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
				return false
			}
		}
	}
	return true
}

// PortID makes the id of a port of which no more is known than where it is: the same for the same words.
func PortID(words ...string) string {
	h := sha1.New() // a name, not a secret: RFC 9562 wants SHA-1
	ns, _ := hex.DecodeString(portSpace[:8] + portSpace[9:13] + portSpace[14:18] + portSpace[19:23] + portSpace[24:])
	h.Write(ns)
	for _, w := range words {
		h.Write([]byte(w))
		h.Write([]byte{0})
	}
	return FormatUUID([16]byte(h.Sum(nil)[:16]), 5)
}

// FormatUUID spells sixteen octets as a UUID of the version, whose bits it sets.
func FormatUUID(b [16]byte, version byte) string {
	b[6] = b[6]&0x0f | version<<4
	b[8] = b[8]&0x3f | 0x80
	x := hex.EncodeToString(b[:])
	return x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:]
}

// IsPortID reports whether a UUID has the form of those that PortID makes.
func IsPortID(id string) bool { return IsUUID(id) && id[14] == '5' }
