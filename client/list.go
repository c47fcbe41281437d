package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
)

// pageSize is how many things of a list are asked for at a time: an answer has a bound, see maxAnswer, and a list has none.
const pageSize = 5000

// Limited returns a client whose lists end after n things; 0 = they are whole. It shares the connections of c.
func (c *Client) Limited(n int) *Client {
	l := *c
	l.limit = n
	return &l
}

// listOf fetches a list page by page.
func listOf[V any](ctx context.Context, c *Client, path, plural string, q url.Values) ([]V, error) {
	if q == nil {
		q = make(url.Values)
	}
	out := []V{}
	for {
		size := pageSize
		if c.limit > 0 {
			size = min(size, c.limit-len(out))
		}
		q.Set("limit", strconv.Itoa(size))
		var answer map[string]json.RawMessage
		if _, err := c.do(ctx, "GET", path+"?"+q.Encode(), nil, &answer); err != nil {
			return nil, err
		}
		var page []V
		var next string
		for key, to := range map[string]any{plural: &page, "next": &next} {
			if b, ok := answer[key]; ok {
				if err := json.Unmarshal(b, to); err != nil {
					return nil, fmt.Errorf("read answer of GET %s: not what an OpenTap server sends: %w", path, err)
				}
			}
		}
		out = append(out, page...)
		if next == "" || c.limit > 0 && len(out) >= c.limit {
			return out, nil
		}
		q.Set("page_token", next)
	}
}
