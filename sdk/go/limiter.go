package plait

// LimiterConfig are the parameters of the limit on a method's direct calls under way (Gradient2). The
// limit follows the time that calls take: while they take no longer than they use to it grows, when
// they take longer or are dropped it shrinks. Calls over it wait, first come first served, within
// their own deadlines.
type LimiterConfig struct {
	// The first limit, the lowest and the highest. Default 20, 1 and 200.
	Initial, Min, Max int64
	// What the limit may grow by in a window, before smoothing. Default 4.
	Queue int64
	// How much longer than usual calls may take before the limit shrinks, in permille. Default 1500.
	TolerancePermille int64
	// The share of a new limit in the next one, in permille. Default 200.
	SmoothingPermille int64
	// Windows that the usual time is an average of, after so many of a plain mean. Default 600 and 10.
	LongWindow, Warmup int64
	// The shortest window in milliseconds, and the fewest calls in one. Default 1,000 and 10.
	WindowMs, WindowCalls int64
	// Calls that wait; one more is refused with RESOURCE_EXHAUSTED. Default 1,000.
	WaitingMax int64
}

// DefaultLimiterConfig are the parameters of SEMANTICS §8.
func DefaultLimiterConfig() LimiterConfig {
	return LimiterConfig{
		Initial: 20, Min: 1, Max: 200, Queue: 4, TolerancePermille: 1500, SmoothingPermille: 200,
		LongWindow: 600, Warmup: 10, WindowMs: 1000, WindowCalls: 10, WaitingMax: 1000,
	}
}

// gradient is the limit alone, fed with one sample a window. Doubles, in the order of the vectors.
type gradient struct {
	config  LimiterConfig
	exact   float64
	samples int64
	sumUs   float64
	longUs  float64
}

func newGradient(config LimiterConfig) *gradient {
	return &gradient{config: config, exact: float64(config.Initial)}
}

func (g *gradient) limit() int64 { return int64(g.exact) }

// sample takes a window's mean time, the most calls that were under way, and whether one was dropped.
func (g *gradient) sample(rttUs, inflight int64, dropped bool) int64 {
	c := g.config
	if dropped {
		g.exact = max(float64(c.Min), float64(g.exact*0.9))
		return g.limit()
	}
	rtt := float64(rttUs)
	g.remember(rtt)
	longUs := g.longUs
	if longUs/rtt > 2 {
		g.longUs *= 0.95
	}
	if float64(inflight) < g.exact/2 {
		return g.limit()
	}
	// The conversions forbid fused operations, which round once where the other languages round twice.
	slope := float64(float64(float64(c.TolerancePermille)/1000)*longUs) / rtt
	slope = max(0.5, min(1.0, slope))
	smoothing := float64(c.SmoothingPermille) / 1000
	target := float64(g.exact*slope) + float64(c.Queue)
	target = float64(g.exact*(1-smoothing)) + float64(target*smoothing)
	g.exact = max(float64(c.Min), min(float64(c.Max), target))
	return g.limit()
}

func (g *gradient) remember(rtt float64) {
	if g.samples < g.config.Warmup {
		g.samples++
		g.sumUs += rtt
		g.longUs = g.sumUs / float64(g.samples)
		return
	}
	weight := 2.0 / float64(g.config.LongWindow+1)
	g.longUs = float64(g.longUs*(1-weight)) + float64(rtt*weight)
}

// admission is what becomes of a call that asks for a place.
type admission string

const (
	admitNow    admission = "now"
	admitWait   admission = "wait"
	admitRefuse admission = "refuse"
)

// limiterOutcome is how a call ended, as the limiter counts it.
type limiterOutcome string

const (
	limiterOK     limiterOutcome = "ok"
	limiterDrop   limiterOutcome = "drop"
	limiterIgnore limiterOutcome = "ignore"
)

// callLimiter says who may call and who waits, and cuts the windows that the limit learns from. It is
// pure: now is an argument. It is not safe for concurrent use.
type callLimiter struct {
	gradient          *gradient
	inflight, waiting int64
	most              int64
	began             bool
	beginMs           int64
	sumUs             int64
	answered, dropped int64
}

func newCallLimiter(config LimiterConfig) *callLimiter {
	return &callLimiter{gradient: newGradient(config)}
}

// acquire asks for a place. After admitWait, release counts it in, or leave takes it out.
func (l *callLimiter) acquire() admission {
	switch {
	case l.waiting == 0 && l.inflight < l.gradient.limit():
		l.enter()
		return admitNow
	case l.waiting >= l.gradient.config.WaitingMax:
		return admitRefuse
	}
	l.waiting++
	return admitWait
}

// leave says that somebody gave up waiting.
func (l *callLimiter) leave() { l.waiting-- }

// release says that a call ended, and answers how many of those that wait may be sent now.
func (l *callLimiter) release(nowMs, rttUs int64, outcome limiterOutcome) (admitted int64) {
	l.inflight--
	if outcome != limiterIgnore {
		l.count(nowMs, rttUs, outcome)
	}
	for l.waiting > 0 && l.inflight < l.gradient.limit() {
		l.waiting--
		admitted++
		l.enter()
	}
	return admitted
}

func (l *callLimiter) enter() {
	l.inflight++
	l.most = max(l.most, l.inflight)
}

func (l *callLimiter) count(nowMs, rttUs int64, outcome limiterOutcome) {
	if !l.began {
		l.began, l.beginMs = true, nowMs
	}
	if outcome == limiterOK {
		l.sumUs += max(1, rttUs)
		l.answered++
	} else {
		l.dropped++
	}
	c := l.gradient.config
	if nowMs-l.beginMs < c.WindowMs || l.answered+l.dropped < c.WindowCalls {
		return
	}
	var mean int64
	if l.answered > 0 {
		mean = l.sumUs / l.answered
	}
	l.gradient.sample(mean, l.most, l.dropped > 0)
	l.beginMs, l.most = nowMs, l.inflight
	l.sumUs, l.answered, l.dropped = 0, 0, 0
}
