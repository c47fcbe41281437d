package controller

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"opentap/auth"
	"opentap/want"
)

// Webhook is a target that rules may tell, as an administrator approved it.
type Webhook struct {
	URL   string
	Proxy string // http://… through which it is reached; "" = none, whatever the environment says
}

const (
	mostHooks    = 64 // messages that wait for one target
	hookPatience = 5 * time.Second
	hookTries    = 5
	hookPause    = time.Second // before the second try; each pause is twice the one before
)

// hook is a target with the messages that wait for it. Each has a goroutine of its own: a target that is slow or dead delays nobody else.
type hook struct {
	name   string
	client *http.Client
	url    string
	calls  chan hookCall

	mu     sync.Mutex
	status want.WebhookStatus
}

// hookCall is one message.
type hookCall struct {
	event string // whose Action.Webhook tells what became of it
	body  []byte
}

func newHook(name string, w Webhook) *hook {
	t := &http.Transport{MaxIdleConns: 1, IdleConnTimeout: 30 * time.Second, TLSHandshakeTimeout: hookPatience, ResponseHeaderTimeout: hookPatience}
	if u, err := url.Parse(w.Proxy); err == nil && w.Proxy != "" {
		t.Proxy = http.ProxyURL(u)
	}
	return &hook{
		name: name, url: w.URL, calls: make(chan hookCall, mostHooks), status: want.WebhookStatus{Name: name},
		client: &http.Client{
			Timeout: hookPatience, Transport: t,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// tellHook has an event's target told of it as it is now. It never waits.
func (c *Controller) tellHook(e *storedDetection) {
	if e.Hook == "" {
		return
	}
	h := c.detection.hooks[e.Hook]
	if h == nil {
		c.toldHook(e.ID, "not told: there is no target "+e.Hook+" any more")
		return
	}
	body, err := json.Marshal(&e.Detection)
	if err != nil {
		c.log.Error("an event cannot be spelt", "event", e.ID, "err", err)
		return
	}
	select {
	case h.calls <- hookCall{e.ID, body}:
	default:
		h.mu.Lock()
		h.status.Dropped++
		h.mu.Unlock()
		c.toldHook(e.ID, fmt.Sprintf("not told: %d messages wait for the target", mostHooks))
	}
}

// toldHook notes in an event what became of telling.
func (c *Controller) toldHook(event, text string) {
	c.work(event, func(ctx context.Context) {
		c.sureChange(ctx, event, func(e *storedDetection) bool {
			was := e.Action.Webhook
			e.Action.Webhook = text
			return was != text
		})
	})
}

// callHook sends a target its messages until ctx ends. A redirection is not followed: targets are those of the configuration alone.
func (c *Controller) callHook(ctx context.Context, h *hook) {
	defer h.client.CloseIdleConnections()
	for {
		select {
		case <-ctx.Done():
			return
		case call := <-h.calls:
			err := h.tell(ctx, call.body)
			if ctx.Err() != nil {
				return
			}
			text := "told"
			h.mu.Lock()
			if now := time.Now().UTC(); err != nil {
				text = "not told: " + err.Error()
				h.status.Failed++
				h.status.FailedAt, h.status.Problem = now, err.Error()
			} else {
				h.status.Told++
				h.status.ToldAt, h.status.Problem = now, ""
			}
			h.mu.Unlock()
			if err != nil {
				c.log.Warn("a webhook could not be told", "target", h.name, "err", err)
			}
			c.toldHook(call.event, text)
		}
	}
}

// tell sends a message, with some tries.
func (h *hook) tell(ctx context.Context, body []byte) (err error) {
	pause := hookPause
	for try := range hookTries {
		if try > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(pause):
			}
			pause *= 2
		}
		var again bool
		if again, err = h.post(ctx, body); err == nil || !again {
			return err
		}
		h.mu.Lock()
		h.status.Problem = err.Error()
		h.mu.Unlock()
	}
	return err
}

// post sends a body. again: another try may do better.
func (h *hook) post(ctx context.Context, body []byte) (again bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "opentap")
	resp, err := h.client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // the address may hold a secret
		}
		return true, err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // what it says does not matter
	if err := resp.Body.Close(); err != nil {
		return true, err
	}
	if resp.StatusCode/100 != 2 {
		return resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests, errors.New("it answered " + resp.Status)
	}
	return false, nil
}

// Webhooks shows how the targets fare that rules may tell, since this controller began. Where they are is the configuration's to know.
func (c *Controller) Webhooks(ctx context.Context, id auth.Identity) ([]want.WebhookStatus, error) {
	if err := c.mayDetect(ctx, id, "detect.webhook.list", "", auth.SeeMetadata); err != nil {
		return nil, err
	}
	out := []want.WebhookStatus{}
	for _, name := range slices.Sorted(maps.Keys(c.detection.hooks)) {
		h := c.detection.hooks[name]
		h.mu.Lock()
		s := h.status
		h.mu.Unlock()
		s.Waiting = len(h.calls)
		if !id.May(auth.Administer) {
			s.Problem = ""
		}
		out = append(out, s)
	}
	return out, nil
}
