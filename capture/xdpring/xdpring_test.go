package xdpring

import (
	"testing"
	"time"
)

func TestValidate(t *testing.T) {
	good := DefaultConfig()
	good.Interface = "eth1"
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"no interface":    func(c *Config) { c.Interface = "" },
		"little memory":   func(c *Config) { c.Memory = MinMemory - 1 },
		"no linger":       func(c *Config) { c.Linger = 0 },
		"long linger":     func(c *Config) { c.Linger = time.Minute },
		"no such mode":    func(c *Config) { c.Mode = Generic + 1 },
		"negative memory": func(c *Config) { c.Memory = -1 },
	} {
		c := good
		change(&c)
		if c.Validate() == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestMemoryOfFrames(t *testing.T) {
	for _, tt := range []struct{ mtu, chunk int }{{1500, 2048}, {1754, 2048}, {1755, 4096}, {3802, 4096}, {3803, 0}, {9000, 0}} {
		chunk, err := chunkFor(tt.mtu)
		if chunk != tt.chunk || (err != nil) != (tt.chunk == 0) {
			t.Errorf("MTU %d: %d octets, %v; want %d", tt.mtu, chunk, err, tt.chunk)
		}
	}
	for _, tt := range []struct{ memory, queues, frames int }{{256 << 20, 1, 131072}, {256 << 20, 3, 32768}, {4 << 20, 1, 2048}, {4 << 20, 16, 0}} {
		n, err := share(tt.memory, tt.queues, 2048)
		if n != tt.frames || (err != nil) != (tt.frames == 0) {
			t.Errorf("%d octets for %d queues: %d frames, %v; want %d", tt.memory, tt.queues, n, err, tt.frames)
		}
	}
}
