package controller

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"opentap/want"
)

// hookCall is one message to a webhook.
type hookCall struct {
	target string
	e      *want.Detection // whose Action.Webhook tells what became of it; guarded by detection.mu
	body   []byte
}

const (
	mostHooks    = 256 // messages that wait
	hookPatience = 5 * time.Second
	hookTries    = 3
)

// enqueueHook has a target told of a detection as it is now. d.mu is held.
func (c *Controller) enqueueHook(target string, e *want.Detection) {
	body, err := json.Marshal(copyDetection(e))
	if err != nil {
		e.Action.Webhook = err.Error()
		return
	}
	select {
	case c.detection.hooks <- hookCall{target, e, body}:
	default:
		e.Action.Webhook = "not told: too many messages wait"
	}
}

// callHooks sends messages until ctx ends. Targets are those of the configuration alone: a redirection is not followed.
func (c *Controller) callHooks(ctx context.Context) {
	cl := &http.Client{
		Timeout:       hookPatience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	for {
		select {
		case <-ctx.Done():
			return
		case call := <-c.detection.hooks:
			text := "told"
			if err := c.callHook(ctx, cl, call); err != nil {
				text = "not told: " + err.Error()
				c.log.Warn("a webhook could not be told", "target", call.target, "err", err)
			}
			c.detection.mu.Lock()
			call.e.Action.Webhook = text
			c.detection.tell()
			c.detection.mu.Unlock()
		}
	}
}

func (c *Controller) callHook(ctx context.Context, cl *http.Client, call hookCall) (err error) {
	url := c.cfg.Webhooks[call.target]
	if url == "" {
		return fmt.Errorf("there is no target %q any more", call.target)
	}
	for try := range hookTries {
		if try > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Duration(try) * time.Second):
			}
		}
		var again bool
		if again, err = post(ctx, cl, url, call.body); err == nil || !again {
			return err
		}
	}
	return err
}

// post sends a body. again: another try may do better.
func post(ctx context.Context, cl *http.Client, url string, body []byte) (again bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "opentap")
	resp, err := cl.Do(req)
	if err != nil {
		return true, err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // what it says does not matter
	if err := resp.Body.Close(); err != nil {
		return true, err
	}
	if resp.StatusCode/100 != 2 {
		return resp.StatusCode >= 500, errors.New("it answered " + resp.Status)
	}
	return false, nil
}
