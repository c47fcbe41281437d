package agent

import (
	"encoding/json"
	"fmt"

	"go.etcd.io/bbolt"

	"opentap/tap/reconcile"
)

var keyTapMemos = []byte("tap_memos") // JSON []reconcile.Memo

// tapMemos reads what rememberTaps kept.
func (k *keep) tapMemos() (memos []reconcile.Memo, err error) {
	err = k.db.View(func(tx *bbolt.Tx) error {
		v := tx.Bucket(bucketMeta).Get(keyTapMemos)
		if v == nil {
			return nil
		}
		if err := json.Unmarshal(v, &memos); err != nil {
			return fmt.Errorf("the states of taps: %w", err)
		}
		return nil
	})
	return memos, err
}

// rememberTaps keeps how taps fare, durably.
func (k *keep) rememberTaps(memos []reconcile.Memo) error {
	v, err := json.Marshal(memos)
	if err != nil {
		return err
	}
	return k.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketMeta).Put(keyTapMemos, v) })
}
