package gate

// cautious is how many times slower the bound rises where no call has been answered yet: each try
// there costs a server that is full a refusal, and a task an attempt.
const cautious = 4

// room bounds the calls at once. RESOURCE_EXHAUSTED may say that a server has less room than was
// thought, or that somebody's quota is used up, which has nothing to do with other calls. So it
// counts only where no call was answered lately: among more calls at once than the room that is
// proven. Then the bound falls by a quarter, not below what is proven. It rises by one after as many
// good answers as it is high, up to what was set.
type room struct {
	set, limit int
	inUse      int
	// So many calls at once were answered well. What was set is believed at first; a refusal among
	// fewer takes half of what is above it away, so that a server that lost room is soon found out.
	proven int
	// Good answers since the bound changed.
	good int
}

func newRoom(set int) room { return room{set: set, limit: set, proven: set} }

func (r *room) free() bool { return r.inUse < r.limit }

// take takes a place; the answer is how many are taken now.
func (r *room) take() (among int) {
	r.inUse++
	return r.inUse
}

// give gives a place back that was taken among so many. lowered is true when the bound was as set
// and is not any more.
func (r *room) give(among int, exhausted bool) (lowered bool) {
	r.inUse--
	if exhausted {
		return r.refused(among)
	}
	r.proven = max(r.proven, among)
	enough := r.limit
	if r.limit >= r.proven {
		enough *= cautious
	}
	if r.good++; r.limit < r.set && r.good >= enough {
		r.limit++
		r.good = 0
	}
	return false
}

func (r *room) refused(among int) (lowered bool) {
	switch {
	case among == 1:
		// There is no less than one at once.
	case among <= r.proven:
		r.proven = (r.proven + among - 1) / 2
	default:
		lowered = r.limit == r.set
		r.limit = max(r.proven, min(r.limit, among)*3/4, 1)
		r.good = 0
		return lowered && r.limit < r.set
	}
	return false
}
