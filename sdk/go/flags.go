package plait

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
	"sync/atomic"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

// shareMax is all keys; a share of a flag is told in parts of it.
const shareMax = 10_000

// flagNameMax is the longest name; a longer one is no flag's.
const flagNameMax = 64

// FlagOption says more about a question of [Flag].
type FlagOption func(*flagQuestion)

type flagQuestion struct {
	key       string
	hasKey    bool
	otherwise bool
}

// WithFlagKey says for whom a flag is asked. Default: the task's ordering key, else its idempotency
// key, else that of its flow, else its id. A direct call has none: for it a flag is on that is on for
// everybody.
func WithFlagKey(key string) FlagOption {
	return func(q *flagQuestion) { q.key, q.hasKey = key, true }
}

// WithFlagDefault is the answer where there is no such flag, and outside of a handler. Default: off.
func WithFlagDefault(on bool) FlagOption {
	return func(q *flagQuestion) { q.otherwise = on }
}

// Flag tells whether a feature flag is on, by a handler's context or one derived from it. A handler
// sees the flags as they were when its attempt began, all the time.
func Flag(ctx context.Context, name string, options ...FlagOption) bool {
	var q flagQuestion
	for _, option := range options {
		option(&q)
	}
	// A flag of another name is never set, so there is nothing to remember of it.
	if !isFlagName(name) {
		return q.otherwise
	}
	if run, ok := AttemptFrom(ctx); ok {
		if !q.hasKey {
			q.key, q.hasKey = run.run.flagKey(), true
		}
		return q.answer(run.run.readFlag(name))
	}
	if rules, ok := ctx.Value(flagsKey{}).(flagRules); ok {
		return q.answer(rules[name])
	}
	return q.otherwise
}

// answer is what a flag says; nil: there is no such flag.
func (q *flagQuestion) answer(rule *plaitv1.FlagRule) bool {
	switch {
	case rule == nil || rule.GetMissing():
		return q.otherwise
	case q.hasKey && slices.Contains(rule.GetKeysOn(), q.key):
		return true
	case q.hasKey && slices.Contains(rule.GetKeysOff(), q.key):
		return false
	case rule.GetShare() >= shareMax:
		return true
	}
	return q.hasKey && flagPosition(rule.GetName(), q.key) < rule.GetShare()
}

// flagPosition is where a key stands among all, 0 to 9,999: equal in every language.
func flagPosition(name, key string) uint32 {
	hash := sha256.Sum256([]byte(name + "\x00" + key))
	return uint32(binary.BigEndian.Uint64(hash[:8]) % shareMax)
}

func isFlagName(name string) bool {
	if name == "" || len(name) > flagNameMax {
		return false
	}
	for _, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// flagRules are the flags of a moment, by name. They are never changed, only replaced.
type flagRules map[string]*plaitv1.FlagRule

// flagsKey finds the flags of a call that is served directly in its context.
type flagsKey struct{}

// flagBoard has the flags that a worker was told of. One goroutine writes, the one that receives.
type flagBoard struct{ rules atomic.Pointer[flagRules] }

// now are the flags as they are now.
func (b *flagBoard) now() flagRules {
	if rules := b.rules.Load(); rules != nil {
		return *rules
	}
	return nil
}

// replace says that these are all.
func (b *flagBoard) replace(flags []*plaitv1.FlagRule) {
	b.put(flagRules{}, flags)
}

// change takes those that changed.
func (b *flagBoard) change(f *plaitv1.FlagFrame) {
	rules := maps.Clone(b.now())
	if rules == nil {
		rules = flagRules{}
	}
	for _, name := range f.GetRemoved() {
		delete(rules, name)
	}
	b.put(rules, f.GetFlags())
}

func (b *flagBoard) put(rules flagRules, flags []*plaitv1.FlagRule) {
	for _, rule := range flags {
		rules[rule.GetName()] = rule
	}
	b.rules.Store(&rules)
}

// readFlag is a flag of an attempt; one that is not there is read, too, as missing.
func (a *attempt) readFlag(name string) *plaitv1.FlagRule {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, rule := range a.flagsRead {
		if rule.GetName() == name {
			return rule
		}
	}
	rule := a.flagOf(name)
	a.flagsRead = append(a.flagsRead, rule)
	// What it asks for next may depend on the flag, so it is kept with the child.
	a.plainChild = nil
	return rule
}

func (a *attempt) flagOf(name string) *plaitv1.FlagRule {
	// What earlier runs of the flow had read holds for this one.
	for _, rule := range a.extra.GetFlags() {
		if rule.GetName() == name {
			return rule
		}
	}
	if rule, ok := a.flags[name]; ok {
		return rule
	}
	return &plaitv1.FlagRule{Name: name, Missing: true}
}

// flagKey is the key by which the attempt reads flags where its handler says none.
func (a *attempt) flagKey() string {
	keys := []string{a.extra.GetOrderingKey(), a.extra.GetIdempotencyKey(), a.extra.GetFlagKey()}
	for _, key := range keys {
		if key != "" {
			return key
		}
	}
	if parent := a.extra.GetParent(); parent != 0 {
		return taskID(parent)
	}
	return taskID(a.task)
}
