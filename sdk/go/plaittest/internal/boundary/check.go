package boundary

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"
)

const (
	// patience is how long a worker has, twice, to answer another message after its attempts are out of time.
	// Its handlers should be stopped at once; on a busy machine that takes a moment.
	patience = 3 * time.Second
	burstMax = 4096
)

// Failure is one case that not all workers answered as they should.
type Failure struct {
	Case string
	// DIFFERS, BREAKS_RULE, NOT_COVERED, REFUSED or OVERRUN.
	Kind string
	// Those that it is about: those that are not with the most.
	Workers []string
	// What is wrong, for people; may have several lines.
	Text string
}

func (f Failure) String() string {
	by := ""
	if len(f.Workers) > 0 {
		by = " by " + strings.Join(f.Workers, ", ")
	}
	return f.Kind + by + ": " + f.Text
}

// Report is what came of one method.
type Report struct {
	// "package.Service/Method".
	Method string
	Cases  []Case
	// The labels of the workers that count.
	Workers  []string
	Failures []Failure
	// What could not be looked at, and why.
	Notes []string
}

// check is one method's test.
type check struct {
	report         *Report
	sender         *sender
	workers        []worker
	response       protoreflect.MessageDescriptor
	ignore         []string
	allowUncovered bool
	seen           []*seen
}

func (c *check) ids(without map[string]bool) []string {
	return slices.DeleteFunc(idsOf(c.workers), func(id string) bool { return without[id] })
}

func idsOf(workers []worker) []string {
	found := make([]string, 0, len(workers))
	for _, each := range workers {
		found = append(found, each.id)
	}
	return found
}

func (c *check) fail(name, kind string, workers []worker, text string) {
	failure := Failure{Case: name, Kind: kind, Text: text}
	for _, each := range workers {
		failure.Workers = append(failure.Workers, each.label)
	}
	c.report.Failures = append(c.report.Failures, failure)
}

// answers sends all cases, and compares. gone is the ids of workers that answered nothing of a method before;
// they are left out, and more are added.
func (c *check) answers(ctx context.Context, gone map[string]bool) error {
	c.workers = slices.DeleteFunc(c.workers, func(each worker) bool {
		if gone[each.id] {
			c.report.Notes = append(c.report.Notes, each.label+" is left out: it answers no more")
		}
		return gone[each.id]
	})
	if len(c.workers) == 0 {
		c.fail(c.report.Method, "NOT_COVERED", nil, "no worker serves it")
		return nil
	}
	var err error
	if c.seen, err = c.sender.send(ctx, c.report.Cases, c.ids(nil)); err != nil {
		return err
	}
	if err := c.sender.sendAgain(ctx, doubtful(c.seen), c.ids(nil)); err != nil {
		return err
	}
	answered := map[string]bool{}
	for _, each := range c.seen {
		c.judge(each)
		for id := range each.answers {
			answered[id] = true
		}
	}
	for _, each := range c.workers {
		if len(answered) > 0 && !answered[each.id] {
			gone[each.id] = true
		}
	}
	return nil
}

// doubtful is the cases with which some were late and others not, without the answers of the late ones: a machine
// that was busy for a moment is no difference, so they are asked again.
func doubtful(all []*seen) []*seen {
	var found []*seen
	for _, each := range all {
		late := 0
		for _, said := range each.answers {
			if said.expired() {
				late++
			}
		}
		if late > 0 && late < len(each.answers) {
			maps.DeleteFunc(each.answers, func(_ string, said answer) bool { return said.expired() })
			found = append(found, each)
		}
	}
	return found
}

func (c *check) judge(each *seen) {
	if each.refused != "" {
		c.fail(each.Name, "REFUSED", nil, "the broker: "+each.refused)
		return
	}
	var heard, silent []worker
	for _, one := range c.workers {
		if _, ok := each.answers[one.id]; ok {
			heard = append(heard, one)
		} else {
			silent = append(silent, one)
		}
	}
	if len(silent) > 0 && !c.allowUncovered {
		text := "it was sent again and again, and never reached them"
		c.fail(each.Name, "NOT_COVERED", silent, text)
	}
	if groups := c.groups(each, heard); len(groups) > 1 {
		c.fail(each.Name, "DIFFERS", slices.Concat(groups[1:]...), c.difference(each, groups))
	}
	c.rule(each, heard)
}

// groups is those that agree with each other; the largest group first.
func (c *check) groups(each *seen, heard []worker) [][]worker {
	var facts []map[string]string
	var groups [][]worker
	for _, one := range heard {
		said := each.answers[one.id].facts(c.response, c.ignore)
		at := slices.IndexFunc(facts, func(known map[string]string) bool { return maps.Equal(known, said) })
		if at < 0 {
			at = len(groups)
			facts, groups = append(facts, said), append(groups, nil)
		}
		groups[at] = append(groups[at], one)
	}
	slices.SortStableFunc(groups, func(a, b []worker) int { return len(b) - len(a) })
	return groups
}

// difference is what each group says, and in what it differs from the first.
func (c *check) difference(each *seen, groups [][]worker) string {
	first := each.answers[groups[0][0].id]
	lines := []string{labels(groups[0]) + ": " + first.text()}
	for _, group := range groups[1:] {
		other := each.answers[group[0].id]
		lines = append(lines, labels(group)+": "+other.text())
		lines = append(lines, differences(
			first.facts(c.response, c.ignore), other.facts(c.response, c.ignore))...)
	}
	return strings.Join(lines, "\n")
}

func labels(group []worker) string {
	var found []string
	for _, each := range group {
		found = append(found, each.label)
	}
	return strings.Join(found, ", ")
}

func (c *check) rule(each *seen, heard []worker) {
	if each.Breaks == "" {
		return
	}
	var lenient []worker
	var said []string
	for _, one := range heard {
		if code := each.answers[one.id].code; code != codes.InvalidArgument {
			lenient, said = append(lenient, one), append(said, code.String())
		}
	}
	if len(lenient) > 0 {
		slices.Sort(said)
		text := fmt.Sprintf("breaks the rule %s, and is answered %s, not InvalidArgument",
			each.Breaks, strings.Join(slices.Compact(said), ", "))
		c.fail(each.Name, "BREAKS_RULE", lenient, text)
	}
}

// deadlines fills every slot of every worker with a case that runs out of time; afterwards each must be free
// to answer another one. After the answers of all methods, since a worker that is not may answer nothing
// more. stuck is the ids of those, from methods before; more are added.
func (c *check) deadlines(ctx context.Context, stuck map[string]bool) error {
	ids := c.ids(stuck)
	late := slices.IndexFunc(c.seen, func(each *seen) bool { return isLate(each, ids) })
	if late < 0 {
		return nil
	}
	quick := slices.IndexFunc(c.seen, func(each *seen) bool { return isQuick(each, ids) })
	copies := c.sender.copiesToFill()
	if quick < 0 || copies > burstMax {
		why := "no case is quick with every worker"
		if quick >= 0 {
			why = fmt.Sprintf("%d slots are too many", copies/2)
		}
		c.report.Notes = append(c.report.Notes, why+": overruns were not looked for")
		return nil
	}
	if err := c.sender.burst(ctx, c.seen[late].Case, copies); err != nil {
		return err
	}
	over := slices.DeleteFunc(slices.Clone(c.workers), func(each worker) bool {
		return !slices.Contains(ids, each.id)
	})
	for range 2 {
		probed, err := c.sender.probe(ctx, c.seen[quick].Case, idsOf(over), patience)
		if err != nil {
			return err
		}
		over = slices.DeleteFunc(over, func(each worker) bool {
			answer, ok := probed.answers[each.id]
			return ok && !answer.expired()
		})
	}
	for _, each := range over {
		stuck[each.id] = true
	}
	if len(over) > 0 {
		text := fmt.Sprintf("%s after its deadline the slots are still taken", 2*patience)
		c.fail(c.seen[late].Name, "OVERRUN", over, text)
	}
	return nil
}

func isLate(each *seen, ids []string) bool {
	return slices.ContainsFunc(ids, func(id string) bool { return each.answers[id].expired() })
}

func isQuick(each *seen, ids []string) bool {
	return !slices.ContainsFunc(ids, func(id string) bool {
		answer, ok := each.answers[id]
		return !ok || answer.expired() || answer.took >= patience/5
	})
}
