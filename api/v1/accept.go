package v1

import (
	"mime"
	"strconv"
	"strings"

	"opentap/want"
)

// acceptsAll reports whether an Accept header leaves the choice to us.
func acceptsAll(accept string) bool {
	for part := range strings.SplitSeq(accept, ",") {
		if mt, q := mediaRange(part); mt == "*/*" && q > 0 {
			return !strings.Contains(accept, "application/") && !strings.Contains(accept, "text/csv")
		}
	}
	return false
}

// negotiate picks the format that an Accept header likes best, the kind's order deciding among equals (RFC 9110 section
// 12.5.1).
func negotiate(accept string, formats []want.Format) (want.Format, bool) {
	var best want.Format
	bestQ := 0.0
	for _, f := range formats {
		if q := quality(accept, f.MediaType()); q > bestQ {
			best, bestQ = f, q
		}
	}
	return best, bestQ > 0
}

// quality is what the most specific media range that fits says of the type.
func quality(accept, mediaType string) float64 {
	major, _, _ := strings.Cut(mediaType, "/")
	best, rank := 0.0, 0
	for part := range strings.SplitSeq(accept, ",") {
		mt, q := mediaRange(part)
		n := 0
		switch mt {
		case mediaType:
			n = 3
		case major + "/*":
			n = 2
		case "*/*":
			n = 1
		}
		if n > rank {
			best, rank = q, n
		}
	}
	return best
}

func mediaRange(part string) (string, float64) {
	mt, params, err := mime.ParseMediaType(strings.TrimSpace(part))
	if err != nil {
		return "", 0
	}
	q := 1.0
	if s, ok := params["q"]; ok {
		if q, err = strconv.ParseFloat(s, 64); err != nil || !(q >= 0 && q <= 1) {
			return "", 0
		}
	}
	return mt, q
}

func mediaTypes(formats []want.Format) string {
	var b strings.Builder
	for i, f := range formats {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(f.MediaType())
	}
	return b.String()
}
