package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// hashMark begins the last member of a line; the hash covers every octet before it.
const hashMark = `,"hash":"`

// tail is what follows the covered octets: the mark, 64 hex digits, the closing quote and brace.
const tail = len(hashMark) + 2*sha256.Size + len(`"}`)

// appendLine appends e as the entry behind head, with its newline, and returns the new head. It fills in Seq, Prev and
// Hash of e. The line is ASCII alone: whatever a caller puts into a name, it cannot end the line, steer a terminal or
// turn the direction of writing.
func appendLine(dst []byte, e *Entry, head Head) ([]byte, Head) {
	start := len(dst)
	e.Seq = head.Seq + 1
	e.Prev = hex.EncodeToString(head.Hash[:])
	dst = append(dst, `{"seq":`...)
	dst = strconv.AppendUint(dst, e.Seq, 10)
	dst = append(dst, `,"time":"`...)
	dst = e.Time.AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, `","prev":"`...)
	dst = append(dst, e.Prev...)
	dst = append(dst, `","actor":{"name":`...)
	dst = appendText(dst, e.Actor.Name)
	dst = appendMember(dst, "role", e.Actor.Role)
	dst = appendMember(dst, "via", e.Actor.Via)
	dst = appendMember(dst, "remote", e.Actor.Remote)
	dst = append(dst, '}')
	dst = appendMember(dst, "action", e.Action)
	dst = appendMember(dst, "object", e.Object)
	dst = appendMember(dst, "project", e.Project)
	dst = appendMember(dst, "outcome", string(e.Outcome))
	if len(e.Details) > 0 {
		dst = append(dst, `,"details":{`...)
		for i, k := range slices.Sorted(maps.Keys(e.Details)) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendText(dst, k)
			dst = append(dst, ':')
			dst = appendText(dst, e.Details[k])
		}
		dst = append(dst, '}')
	}
	head = Head{Seq: e.Seq, Hash: sha256.Sum256(dst[start:])}
	e.Hash = hex.EncodeToString(head.Hash[:])
	dst = append(dst, hashMark...)
	dst = append(dst, e.Hash...)
	return append(dst, "\"}\n"...), head
}

// appendMember appends a member unless its text is empty.
func appendMember(dst []byte, name, text string) []byte {
	if text == "" {
		return dst
	}
	dst = append(dst, `,"`...)
	dst = append(dst, name...)
	dst = append(dst, `":`...)
	return appendText(dst, text)
}

// appendText appends a JSON string (RFC 8259 section 7) in ASCII, cut to MaxText octets of s. Octets that are not
// UTF-8 become U+FFFD.
func appendText(dst []byte, s string) []byte {
	cut := ""
	if len(s) > MaxText {
		n := MaxText
		for n > MaxText-utf8.UTFMax && !utf8.RuneStart(s[n]) {
			n--
		}
		s, cut = s[:n], `\u2026`
	}
	const digits = "0123456789abcdef"
	unit := func(u rune) {
		dst = append(dst, '\\', 'u', digits[u>>12&15], digits[u>>8&15], digits[u>>4&15], digits[u&15])
	}
	dst = append(dst, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r >= ' ' && r < 0x7f:
			dst = append(dst, byte(r))
		case r < 0x10000:
			unit(r)
		default: // a surrogate pair
			r -= 0x10000
			unit(0xd800 + r>>10)
			unit(0xdc00 + r&0x3ff)
		}
	}
	dst = append(dst, cut...)
	return append(dst, '"')
}

// parseLine reads one line without its newline and proves its own hash, not its place in the chain.
func parseLine(line []byte) (Entry, Head, error) {
	var e Entry
	covered := len(line) - tail
	if covered <= 0 || !bytes.HasPrefix(line[covered:], []byte(hashMark)) || !bytes.HasSuffix(line, []byte(`"}`)) {
		return e, Head{}, errors.New("does not end in a hash")
	}
	if err := json.Unmarshal(line, &e); err != nil {
		return e, Head{}, fmt.Errorf("is not an entry: %w", err)
	}
	sum := sha256.Sum256(line[:covered])
	said := line[covered+len(hashMark) : len(line)-2]
	if hex.EncodeToString(sum[:]) != string(said) || e.Hash != string(said) {
		return e, Head{}, errors.New("was changed: its hash does not fit")
	}
	return e, Head{Seq: e.Seq, Hash: sum}, nil
}
