package agent

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"opentap/agentapi"
	"opentap/tap"
	"opentap/want"
)

// keep is the agent's memory on disk: the desired set it has taken, and what became of each capture.
type keep struct {
	db     *bbolt.DB
	nodeID string
	epoch  string    // of the store whose revision was taken, before this run
	alive  time.Time // when the agent was last known to be alive, before this run; zero = never
}

var (
	bucketMeta      = []byte("meta")
	bucketDesired   = []byte("desired")   // UID → JSON want.Capture
	bucketActual    = []byte("actual")    // UID → JSON memo
	bucketRecorders = []byte("recorders") // point → JSON wished
	keyNodeID       = []byte("node_id")
	keyRevision     = []byte("revision")
	keyAlive        = []byte("alive") // Unix nanoseconds, big endian
	keyEpoch        = []byte("epoch")
	keyTaps         = []byte("taps") // JSON tap.Set
)

// memo is what a job remembers over a restart.
type memo struct {
	Status want.Status `json:"status"`
	// Apart is how many of the captured packets are in no flow record because they are in no flow (ARP, malformed …).
	Apart uint64 `json:"apart,omitempty"`
	// Expired says that the data was removed, or is about to be, because its retention has passed.
	Expired bool `json:"expired,omitempty"`
}

// clone is a copy that shares nothing.
func (m *memo) clone() memo {
	c := *m
	c.Status.Gaps = append([]want.Gap(nil), m.Status.Gaps...)
	return c
}

func openKeep(path string) (*keep, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		return nil, fmt.Errorf("open the agent's state %s (is another opentapd running?): %w", path, err)
	}
	k := &keep{db: db}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketMeta, bucketDesired, bucketActual, bucketRecorders} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		meta := tx.Bucket(bucketMeta)
		if b := meta.Get(keyAlive); len(b) == 8 {
			k.alive = time.Unix(0, int64(binary.BigEndian.Uint64(b))).UTC()
		}
		k.epoch = string(meta.Get(keyEpoch))
		if id := meta.Get(keyNodeID); id != nil {
			k.nodeID = string(id)
			return nil
		}
		var b [8]byte
		rand.Read(b[:]) // never fails, crypto/rand
		k.nodeID = hex.EncodeToString(b[:])
		return meta.Put(keyNodeID, []byte(k.nodeID))
	})
	if err != nil {
		_ = db.Close() // the first error is the one to tell
		return nil, fmt.Errorf("prepare the agent's state %s: %w", path, err)
	}
	return k, nil
}

func (k *keep) close() error { return k.db.Close() }

// beat notes that the agent is alive at t, so that a later start knows since when it was not.
func (k *keep) beat(t time.Time) error {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(t.UnixNano()))
	return k.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketMeta).Put(keyAlive, b[:]) })
}

// load reads everything back.
func (k *keep) load() (revision int64, wanted []want.Capture, done map[string]*memo, err error) {
	done = make(map[string]*memo)
	err = k.db.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket(bucketMeta).Get(keyRevision); len(b) == 8 {
			revision = int64(binary.BigEndian.Uint64(b))
		}
		err := tx.Bucket(bucketDesired).ForEach(func(uid, v []byte) error {
			var c want.Capture
			if err := json.Unmarshal(v, &c); err != nil {
				return fmt.Errorf("desired capture %s: %w", uid, err)
			}
			wanted = append(wanted, c)
			return nil
		})
		if err != nil {
			return err
		}
		return tx.Bucket(bucketActual).ForEach(func(uid, v []byte) error {
			m := new(memo)
			if err := json.Unmarshal(v, m); err != nil {
				return fmt.Errorf("state of capture %s: %w", uid, err)
			}
			done[string(uid)] = m
			return nil
		})
	})
	return revision, wanted, done, err
}

// obey replaces the desired set, durably.
func (k *keep) obey(d agentapi.Desired) error {
	revision, captures := d.Revision, d.Captures
	return k.db.Update(func(tx *bbolt.Tx) error {
		desired, actual := tx.Bucket(bucketDesired), tx.Bucket(bucketActual)
		wanted := make(map[string]bool, len(captures))
		for i := range captures {
			uid := []byte(captures[i].UID)
			wanted[captures[i].UID] = true
			v, err := json.Marshal(&captures[i])
			if err != nil {
				return err
			}
			if old := desired.Get(uid); string(old) == string(v) {
				continue
			}
			if err := desired.Put(uid, v); err != nil {
				return err
			}
		}
		for _, b := range []*bbolt.Bucket{desired, actual} {
			var gone [][]byte
			err := b.ForEach(func(uid, _ []byte) error {
				if !wanted[string(uid)] {
					gone = append(gone, append([]byte(nil), uid...))
				}
				return nil
			})
			if err != nil {
				return err
			}
			for _, uid := range gone {
				if err := b.Delete(uid); err != nil {
					return err
				}
			}
		}
		if err := obeyRecorders(tx, d.Recorders); err != nil {
			return err
		}
		taps, err := json.Marshal(&d.Taps)
		if err != nil {
			return err
		}
		if err := tx.Bucket(bucketMeta).Put(keyTaps, taps); err != nil {
			return err
		}
		if err := tx.Bucket(bucketMeta).Put(keyEpoch, []byte(d.Epoch)); err != nil {
			return err
		}
		var rev [8]byte
		binary.BigEndian.PutUint64(rev[:], uint64(revision))
		return tx.Bucket(bucketMeta).Put(keyRevision, rev[:])
	})
}

// remember keeps a job's state, durably. A capture that is no longer desired is not remembered.
func (k *keep) remember(uid string, m *memo) error {
	v, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return k.db.Update(func(tx *bbolt.Tx) error {
		if tx.Bucket(bucketDesired).Get([]byte(uid)) == nil {
			return nil
		}
		return tx.Bucket(bucketActual).Put([]byte(uid), v)
	})
}

// obeyRecorders keeps the recorders wished for. What is no longer wished for is retired: its data may be needed.
func obeyRecorders(tx *bbolt.Tx, list []want.Recorder) error {
	b := tx.Bucket(bucketRecorders)
	wanted := make(map[string]bool, len(list))
	put := func(w wished) error {
		v, err := json.Marshal(&w)
		if err != nil {
			return err
		}
		return b.Put([]byte(w.Point), v)
	}
	for _, r := range list {
		wanted[r.Point] = true
		if err := put(wished{Recorder: r}); err != nil {
			return err
		}
	}
	var gone []wished
	err := b.ForEach(func(point, v []byte) error {
		var w wished
		if wanted[string(point)] {
			return nil
		}
		if err := json.Unmarshal(v, &w); err != nil {
			return fmt.Errorf("recorder %s: %w", point, err)
		}
		if !w.Retired {
			w.Retired = true
			gone = append(gone, w)
		}
		return nil
	})
	for i := range gone {
		err = errors.Join(err, put(gone[i]))
	}
	return err
}

// recorders reads the recorders of the API back.
func (k *keep) recorders() ([]wished, error) {
	var out []wished
	err := k.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketRecorders).ForEach(func(point, v []byte) error {
			var w wished
			if err := json.Unmarshal(v, &w); err != nil {
				return fmt.Errorf("recorder %s: %w", point, err)
			}
			out = append(out, w)
			return nil
		})
	})
	return out, err
}

// forgetRecorder forgets a recorder whose data is gone.
func (k *keep) forgetRecorder(point string) error {
	return k.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketRecorders).Delete([]byte(point)) })
}

// forgetEpoch forgets which store the desired set is of, and its revision.
func (k *keep) forgetEpoch() error {
	return k.db.Update(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		return errors.Join(meta.Delete(keyEpoch), meta.Delete(keyRevision))
	})
}

// taps reads the tap set back. With none kept it is empty.
func (k *keep) taps() (set tap.Set, err error) {
	err = k.db.View(func(tx *bbolt.Tx) error {
		v := tx.Bucket(bucketMeta).Get(keyTaps)
		if v == nil {
			return nil
		}
		if err := json.Unmarshal(v, &set); err != nil {
			return fmt.Errorf("the tap set: %w", err)
		}
		return nil
	})
	return set, err
}
