//go:build linux

package e2e

import (
	"fmt"
	"sync"
	"testing"

	"opentap/internal/await"
)

// churn is things being made and deleted through several controllers, and what was acknowledged of that.
type churn struct {
	mu      sync.Mutex
	there   map[string]bool // made, and nobody has asked that they go
	gone    map[string]bool // deleted
	refused int
	stop    chan struct{}
	load    sync.WaitGroup
}

// newChurn has each of the controllers, twice, make things and delete those that do not stay. create returns "" for what was refused.
func newChurn(controllers []*machine, create func(c *machine, worker, i int) (id string), stays func(i int) bool, remove func(c *machine, id string) bool) *churn {
	k := &churn{there: map[string]bool{}, gone: map[string]bool{}, stop: make(chan struct{})}
	for w := range 2 * len(controllers) {
		c := controllers[w%len(controllers)]
		k.load.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-k.stop:
					return
				default:
				}
				id := create(c, w, i)
				k.note(func() {
					switch {
					case id == "":
						k.refused++
					case stays(i):
						k.there[id] = true
					}
				})
				if id != "" && !stays(i) && remove(c, id) { // while it is asked for, it may be either
					k.note(func() { k.gone[id] = true })
				}
			}
		})
	}
	return k
}

func (k *churn) note(fn func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	fn()
}

func (k *churn) acknowledged() (n int) {
	k.note(func() { n = len(k.there) + len(k.gone) })
	return n
}

// killEach kills one member after the other, and starts it again; one of them is the leader. Changes go on all the time. Then they end.
func (k *churn) killEach(t *testing.T, etcd *cluster) {
	t.Helper()
	goesOn := func(how string) {
		n := k.acknowledged()
		await.Until(t, "it goes on "+how, func() bool { return k.acknowledged() > n+20 })
	}
	goesOn("before anything happens")
	for i := range 3 {
		etcd.kill(i)
		goesOn(fmt.Sprintf("without member %d", i))
		etcd.start(i)
		goesOn("with all")
	}
	close(k.stop)
	k.load.Wait()
	t.Logf("%d made, %d deleted, %d refused", len(k.there), len(k.gone), k.refused)
}

// holds reports whether a list has what was acknowledged, each as good as it should be, and nothing that was deleted.
func (k *churn) holds(good func(id string) bool, has func(id string) bool) bool {
	for id := range k.there {
		if !good(id) {
			return false
		}
	}
	for id := range k.gone {
		if has(id) {
			return false
		}
	}
	return true
}
