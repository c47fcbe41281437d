package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"opentap/client"
	"opentap/point"
	"opentap/want"
)

func (a *app) topCmd() *cobra.Command {
	once := false
	cmd := &cobra.Command{
		Use: "top", Short: "Show what is being seen, as it changes", Args: cobra.NoArgs,
		Long: `top shows the busiest points with their rates, drops among them, and the captures with their accounts, anew each second.
It is the dashboard's overview for those without a browser. A connection that is lost comes back by itself. A narrow
terminal has fewer columns; with NO_COLOR set there are no colours.

Keys: s sorts points by octets, packets, drops or name in turn; q or Ctrl-C ends. With --once, or when the output is no
terminal, one picture is printed, of the first two seconds.`,
		Example: "  opentap top\n  opentap top --once",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			out, ok := a.stdout.(*os.File)
			if once || !ok || !term.IsTerminal(int(out.Fd())) {
				return a.topOnce(ctx, c)
			}
			return a.topScreen(ctx, c, out)
		}),
	}
	cmd.Flags().BoolVar(&once, "once", false, "print one picture and end")
	return cmd
}

// overview is what the events have told.
type overview struct {
	begin    want.Begin
	points   []point.Point
	nodes    []want.Node
	rates    map[[2]string]want.Rate
	captures map[string]want.View
	lost     string // why there is no connection; "" = there is
	sort     int    // of topSorts
}

// topSorts are what points can be sorted by.
var topSorts = []string{"octets", "packets", "drops", "name"}

// take takes one event in.
func (o *overview) take(e want.Event) error {
	switch e.Name {
	case want.EventBegin:
		*o = overview{rates: make(map[[2]string]want.Rate), captures: make(map[string]want.View), sort: o.sort}
		return json.Unmarshal(e.Data, &o.begin)
	case want.EventPoints:
		var p struct {
			Points []point.Point `json:"points"`
		}
		err := json.Unmarshal(e.Data, &p)
		o.points = p.Points
		return err
	case want.EventNodes:
		var n want.NodesChanged
		err := json.Unmarshal(e.Data, &n)
		o.nodes = n.Nodes
		return err
	case want.EventRates:
		var r want.Rates
		err := json.Unmarshal(e.Data, &r)
		for _, x := range r.Rates {
			o.rates[[2]string{x.Node, x.Point}] = x
		}
		return err
	case want.EventCaptures:
		var c want.CapturesChanged
		if err := json.Unmarshal(e.Data, &c); err != nil {
			return err
		}
		for _, raw := range c.Captures {
			var v want.View
			if err := json.Unmarshal(raw, &v); err != nil {
				return err
			}
			o.captures[v.UID] = v
		}
		for _, uid := range c.Gone {
			delete(o.captures, uid)
		}
	}
	return nil // events of a later version are left alone
}

// errTopEnough ends the listening.
var errTopEnough = errors.New("enough")

// topOnce prints one picture, once there are rates.
func (a *app) topOnce(ctx context.Context, c *client.Client) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var o overview
	told := 0
	err := c.Events(ctx, func(e want.Event) error {
		if err := o.take(e); err != nil {
			return err
		}
		if e.Name == want.EventRates {
			if told++; told > 1 { // the first has none yet
				return errTopEnough
			}
		}
		return nil
	})
	if !errors.Is(err, errTopEnough) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	_, err = io.WriteString(a.stdout, o.picture(120, 1<<20, look{}, time.Now()))
	return err
}

// topScreen draws on the terminal until it is told to end.
func (a *app) topScreen(ctx context.Context, c *client.Client, out *os.File) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	keys := make(chan byte, 8)
	if in, ok := a.stdin.(*os.File); ok && term.IsTerminal(int(in.Fd())) {
		was, err := term.MakeRaw(int(in.Fd()))
		if err != nil {
			return err
		}
		defer func() { _ = term.Restore(int(in.Fd()), was) }()
		go func() { // ends with the process: a terminal's Read cannot be called off
			var b [1]byte
			for {
				if _, err := in.Read(b[:]); err != nil {
					return
				}
				select {
				case keys <- b[0]:
				default:
				}
			}
		}()
	}
	events := make(chan want.Event)
	states := make(chan error)
	go func() {
		for ctx.Err() == nil {
			err := c.Events(ctx, func(e want.Event) error {
				select {
				case events <- e:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
			select {
			case states <- err:
			case <-ctx.Done():
				return
			}
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	}()
	if _, err := io.WriteString(out, "\x1b[?1049h\x1b[?25l"); err != nil { // another screen, no cursor
		return err
	}
	defer func() {
		_, werr := io.WriteString(out, "\x1b[?25h\x1b[?1049l")
		err = errors.Join(err, werr)
	}()
	o := overview{rates: make(map[[2]string]want.Rate), captures: make(map[string]want.View), lost: "connecting"}
	colour := os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" // https://no-color.org
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case k := <-keys:
			switch k {
			case 'q', 3, 4: // Ctrl-C, Ctrl-D
				return nil
			case 's':
				o.sort = (o.sort + 1) % len(topSorts)
			default:
				continue
			}
		case e := <-events:
			if err := o.take(e); err != nil {
				return fmt.Errorf("the server told something that is not understood: %w", err)
			}
			continue
		case err := <-states:
			var away *client.ConnectError
			if err != nil && !errors.As(err, &away) {
				return err
			}
			o.lost = "the connection is lost; trying again"
		case <-tick.C:
		}
		w, h, err := term.GetSize(int(out.Fd()))
		if err != nil || w < 1 || h < 1 {
			w, h = 80, 24
		}
		if _, err := io.WriteString(out, "\x1b[H"+o.picture(w, h, look{screen: true, colour: colour}, time.Now())+"\x1b[J"); err != nil {
			return err
		}
	}
}
