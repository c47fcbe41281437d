package ifcount

// Totals are the few counters that tell how busy a device is; see Stats for what they mean. Dropped is all that the device or
// its queue could not take: rx_dropped, rx_missed_errors and tx_dropped.
type Totals struct {
	RxPackets, TxPackets, RxOctets, TxOctets, Dropped uint64
}
