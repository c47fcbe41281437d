package etcd

import (
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"opentap/store"
)

// clearAlarm makes an embedded member that reached its quota writable again when enough was deleted since: it forgets
// the history, gives the pages back and lifts the alarm. nil: the member takes changes.
func (s *Store) clearAlarm(ctx context.Context) error {
	if s.member == nil {
		return store.ErrFull // a cluster's space is its administrator's
	}
	s.reclaim.Lock()
	defer s.reclaim.Unlock()
	alarms, err := call(ctx, s, func(ctx context.Context) (*clientv3.AlarmResponse, error) { return s.client.AlarmList(ctx) })
	if err != nil || len(alarms.Alarms) == 0 {
		return err
	}
	_, rev, err := s.List(ctx, "\x00")
	if err != nil {
		return err
	}
	_, err = call(ctx, s, func(ctx context.Context) (*clientv3.CompactResponse, error) {
		return s.kv.Compact(ctx, rev, clientv3.WithCompactPhysical())
	})
	if err != nil && !isCompacted(err) {
		return err
	}
	_, err = call(ctx, s, func(context.Context) (struct{}, error) { return struct{}{}, s.member.server.Backend().Defrag() })
	if err != nil {
		return err
	}
	backend, quota := s.member.server.Backend(), s.member.server.Cfg.QuotaBackendBytes
	if size := backend.Size(); size > quota-quota/10 {
		return fmt.Errorf("%w: %d of %d octets are present values", store.ErrFull, size, quota)
	}
	for _, a := range alarms.Alarms {
		if a.Alarm != etcdserverpb.AlarmType_NOSPACE {
			return fmt.Errorf("%w: alarm %v", store.ErrUnavailable, a.Alarm)
		}
		_, err := call(ctx, s, func(ctx context.Context) (*clientv3.AlarmResponse, error) {
			return s.client.AlarmDisarm(ctx, &clientv3.AlarmMember{MemberID: a.MemberID, Alarm: a.Alarm})
		})
		if err != nil {
			return err
		}
	}
	return nil
}
