package gate

// room bounds the calls at once. A server that says RESOURCE_EXHAUSTED has less room than was
// thought: the bound falls by a quarter with each such answer, and rises by one after as many good
// answers as it is high, up to what was set.
type room struct {
	set, limit int
	inUse      int
	// Good answers since the bound changed.
	good int
}

func newRoom(set int) room { return room{set: set, limit: set} }

func (r *room) free() bool { return r.inUse < r.limit }

func (r *room) take() { r.inUse++ }

// give gives a place back. lowered is true when the bound was as set and is not any more.
func (r *room) give(exhausted bool) (lowered bool) {
	used := r.inUse
	r.inUse--
	switch {
	case exhausted:
		lowered = r.limit == r.set
		// From what was in use, when that is less: a bound that was not reached says nothing.
		r.limit = max(1, min(r.limit, used)*3/4)
		r.good = 0
		return lowered && r.limit < r.set
	case r.limit < r.set:
		if r.good++; r.good >= r.limit {
			r.limit++
			r.good = 0
		}
	}
	return false
}
