package tap

import (
	"context"
	"maps"
	"os"
	"slices"
	"testing"
)

// held is a driver that only knows what it has.
type held struct {
	Driver
	ids map[string]bool
}

func (h *held) UpdateSource(_ context.Context, s Source) (string, error) {
	h.ids[s.ID] = true
	return "", nil
}

func (h *held) Delete(_ context.Context, id string) error {
	delete(h.ids, id)
	return nil
}

func (h *held) Prune(_ context.Context, keep func(string) bool) (removed []string, err error) {
	for _, id := range slices.Sorted(maps.Keys(h.ids)) {
		if !keep(id) {
			delete(h.ids, id)
			removed = append(removed, id)
		}
	}
	return removed, nil
}

func (h *held) Counts(id string) (Counts, error) {
	if !h.ids[id] {
		return Counts{}, os.ErrNotExist
	}
	return Counts{Seen: 1}, nil
}

// TestDivide: neither of two sees, counts or prunes what the other one made, though they call it the same.
func TestDivide(t *testing.T) {
	ctx := context.Background()
	d := &held{ids: make(map[string]bool)}
	rest, marked := Divide(d, "m/")
	for _, x := range []struct {
		d   Driver
		ids []string
	}{{rest, []string{"a", "b"}}, {marked, []string{"a", "c"}}} {
		for _, id := range x.ids {
			if _, err := x.d.UpdateSource(ctx, Source{ID: id}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := rest.Counts("c"); err == nil {
		t.Error("the first counts what the second made")
	}
	if _, err := marked.Counts("b"); err == nil {
		t.Error("the second counts what the first made")
	}
	if got, err := rest.Prune(ctx, func(id string) bool { return id == "b" }); err != nil || !slices.Equal(got, []string{"a"}) {
		t.Errorf("the first prunes %v, %v", got, err)
	}
	if err := rest.Delete(ctx, "c"); err != nil {
		t.Fatal(err)
	}
	if got, err := marked.Prune(ctx, func(id string) bool { return id == "c" }); err != nil || !slices.Equal(got, []string{"a"}) {
		t.Errorf("the second prunes %v, %v", got, err)
	}
	if got := slices.Sorted(maps.Keys(d.ids)); !slices.Equal(got, []string{"b", "m/c"}) {
		t.Errorf("there is %v", got)
	}
}
