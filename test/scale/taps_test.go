package scale

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"opentap/tap"
)

// flowsEach is how many tap flows there are for each agent.
const flowsEach = 10

// flowsUp counts the flows that a controller says are at work.
func flowsUp(t *testing.T, p *place) int {
	t.Helper()
	list, err := p.TapFlows(t.Context(), admin)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for i := range list {
		if list[i].Status == tap.Up {
			n++
		}
	}
	return n
}

// side by side does work on n numbers, at both controllers in turn, and returns how long each took, sorted.
func sideBySide(t *testing.T, a, b *place, n int, do func(c *place, i int) error) []time.Duration {
	t.Helper()
	var mu sync.Mutex
	var took []time.Duration
	var load sync.WaitGroup
	work := make(chan int)
	for range 16 {
		load.Go(func() {
			for i := range work {
				one := time.Now()
				if err := do([]*place{a, b}[i%2], i); err != nil {
					t.Errorf("%d: %v", i, err)
				}
				mu.Lock()
				took = append(took, time.Since(one))
				mu.Unlock()
			}
		})
	}
	for i := range n {
		if t.Failed() {
			break
		}
		work <- i
	}
	close(work)
	load.Wait()
	if t.Failed() {
		t.FailNow()
	}
	slices.Sort(took)
	return took
}

// tapThem gives each agent a service at eth2, and flows to it: half of them from its own eth0, half from eth1 of the agent
// after it. They are asked of both controllers, each flow by itself.
func tapThem(t *testing.T, a, b *place, size int, patience time.Duration) {
	ports := make([][3]string, size)
	list, err := a.Ports(t.Context(), admin)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		var host, eth int
		if n, _ := fmt.Sscanf(p.Node+"/"+p.Name, "host%05d/eth%d", &host, &eth); n == 2 {
			ports[host][eth] = p.ID
		}
	}
	services := make([]string, size)
	began := time.Now()
	sideBySide(t, a, b, size, func(c *place, i int) error {
		made, err := c.CreateTapServices(t.Context(), admin, []tap.Service{{PortID: ports[i][2]}})
		if err == nil {
			services[i] = made[0].ID
		}
		return err
	})
	t.Logf("%d tap services in %s", size, time.Since(began).Round(time.Millisecond))
	began = time.Now()
	took := sideBySide(t, a, b, size*flowsEach, func(c *place, i int) error {
		host := i / flowsEach
		source := ports[host][0]
		if i%flowsEach >= flowsEach/2 {
			source = ports[(host+1)%size][1]
		}
		_, err := c.CreateTapFlows(t.Context(), admin, []tap.Flow{{PortID: source, ServiceID: services[host], Direction: tap.Both}})
		return err
	})
	all := func() bool { return flowsUp(t, a) == size*flowsEach && flowsUp(t, b) == size*flowsEach }
	t.Logf("%d tap flows in %s, 16 at a time: %s median, %s at 99 %%", size*flowsEach, time.Since(began).Round(time.Millisecond),
		took[len(took)/2].Round(time.Microsecond), took[len(took)*99/100].Round(time.Microsecond))
	d := within(t, patience, "all flows are at work, and both controllers know", all)
	t.Logf("all were at work, and both controllers knew, %s later", d.Round(time.Millisecond))
}
