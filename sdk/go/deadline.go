package plait

// DeadlinePolicy gives the timeout of an outgoing call by SEMANTICS §4, so that no hop extends a
// deadline and every call carries one. It reads no clock. Times are in milliseconds.
type DeadlinePolicy struct {
	// What counts as remaining when no deadline came in. Default 30,000.
	DefaultMs int64
	// The longest timeout of a call. Default 300,000.
	MaxMs int64
	// What a hop keeps for itself. Default 5.
	HopMarginMs int64
	// A call with less than this is not sent. Default 1.
	MinUsefulMs int64
}

// DefaultDeadlinePolicy is the policy of a call.
func DefaultDeadlinePolicy() DeadlinePolicy {
	return DeadlinePolicy{DefaultMs: 30_000, MaxMs: 300_000, HopMarginMs: 5, MinUsefulMs: 1}
}

// TimeoutMs is the timeout of an outgoing call. inboundLeftMs is what is left of the deadline that
// came in and wantMs what the caller asks for; nil: none. It is not ok when too little is left: the
// caller answers DEADLINE_EXCEEDED and sends nothing.
func (p DeadlinePolicy) TimeoutMs(inboundLeftMs, wantMs *int64) (timeoutMs int64, ok bool) {
	left := p.DefaultMs
	if inboundLeftMs != nil {
		left = *inboundLeftMs
	}
	timeoutMs = min(left, p.MaxMs) - p.HopMarginMs
	if wantMs != nil {
		timeoutMs = min(timeoutMs, *wantMs)
	}
	return timeoutMs, timeoutMs >= p.MinUsefulMs
}
