package filter

import "strings"

// didYouMean proposes the keyword that is nearest to what was written.
func didYouMean(s string) string {
	if len(s) > 20 {
		return ""
	}
	best, dist := "", 3
	if len(s) <= 3 {
		dist = 2
	}
	s = strings.ToLower(s)
	for w, m := range words {
		if m.kind == wConst || m.kind == wRefused {
			continue
		}
		if d := editDistance(s, w); d < dist || d == dist && best != "" && w < best {
			best, dist = w, d
		}
	}
	if best == "" {
		return ""
	}
	return "did you mean " + best + "?"
}

// editDistance counts insertions, deletions, replacements and swaps of neighbours.
func editDistance(a, b string) int {
	prev2, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}
