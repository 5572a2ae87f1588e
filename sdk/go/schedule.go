package plait

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

// scheduleAnswer bounds one answer of the scheduler.
const scheduleAnswer = 10 * time.Second

// ScheduleOptions say when a schedule runs, and how: docs/schedules.md. Exactly one of Cron and
// Every is set.
type ScheduleOptions struct {
	// Cron has five fields (minute, hour, day of month, month, day of week), or is "@daily" and the
	// like.
	Cron string
	// Every is the same distance between all runs: 100 ms to 365 days.
	Every time.Duration
	// Anchor is where Every counts from. Default: 1970.
	Anchor time.Time
	// Timezone is that of Cron, such as "Europe/Berlin". Default: UTC.
	Timezone string
	// Start and End bound the runs, which may be at them. Default: from now on, for ever.
	Start, End time.Time
	// Jitter makes each run late by a share of it. Default 0.
	Jitter time.Duration
	// Overlap is what happens while the run before is not finished. Default: it is left out.
	Overlap plaitv1.OverlapPolicy
	// Missed is what becomes of runs that no scheduler was there for. Default: the latest runs.
	Missed plaitv1.MissedPolicy
	// CatchUp is how far back missed runs count. Default: 365 days.
	CatchUp time.Duration
	// Priority is that of its tasks, 0 to 9. nil: the policy's.
	Priority *int32
}

// Schedule runs a method as a durable task at times that recur. It is meant to be said by each start
// of a program: it creates the schedule of this name, or changes what differs; whether it is paused
// stays. `plait schedule delete` removes it. The answer is the schedule as it is, its next time
// included.
//
// It waits for a scheduler where none runs; ctx bounds it. INVALID_ARGUMENT names the field that
// cannot hold, or the key that the request lacks; FAILED_PRECONDITION: a contract declares a
// schedule of this name.
func Schedule[Q, R any](
	ctx context.Context, m Method[Q, R], name string, request *Q, options ScheduleOptions,
) (*plaitv1.ScheduleEntry, error) {
	var what scheduled
	if _, err := m(ctx, request, &callOption{kind: asSchedule, scheduled: &what}); err != nil {
		return nil, err
	}
	if what.client == nil {
		return nil, errNoChannel
	}
	return what.client.putSchedule(ctx, options.message(name, &what))
}

// scheduled is what a channel tells of a call that is to be scheduled.
type scheduled struct {
	client  *Client
	path    string
	payload []byte
}

// schedule takes a call in, and makes its method known.
func (c *Channel) schedule(ctx context.Context, what *scheduled, path string, args any) error {
	if err := checkMessage("request", args); err != nil {
		return err
	}
	if _, err := c.client.contracts.resolve(ctx, path); err != nil {
		return err
	}
	payload, _, err := payloadOf(args, marshalRequest)
	if err != nil {
		return status.Errorf(codes.Internal, "marshal the request: %v", err)
	}
	*what = scheduled{client: c.client, path: path, payload: payload}
	return nil
}

func (o *ScheduleOptions) message(name string, what *scheduled) *plaitv1.Schedule {
	return &plaitv1.Schedule{
		Name:          name,
		Method:        what.path,
		Request:       what.payload,
		Cron:          o.Cron,
		Every:         durationOrNil(o.Every),
		Anchor:        timeOrNil(o.Anchor),
		Timezone:      o.Timezone,
		StartTime:     timeOrNil(o.Start),
		EndTime:       timeOrNil(o.End),
		Jitter:        durationOrNil(o.Jitter),
		Overlap:       o.Overlap,
		Missed:        o.Missed,
		CatchUpWindow: durationOrNil(o.CatchUp),
		Priority:      o.Priority,
	}
}

// putSchedule asks the scheduler, and whoever takes over from it.
func (c *Client) putSchedule(
	ctx context.Context, schedule *plaitv1.Schedule,
) (*plaitv1.ScheduleEntry, error) {
	var pause pauser
	for {
		answer, err := c.askSchedule(ctx, schedule)
		if err == nil {
			return answer.GetEntry(), nil
		}
		if status.Code(err) != codes.Unavailable || ctx.Err() != nil {
			return nil, err
		}
		if pause.wait(ctx, c.conn) != nil {
			return nil, waitEnded(ctx, "the scheduler", err)
		}
	}
}

func (c *Client) askSchedule(
	ctx context.Context, schedule *plaitv1.Schedule,
) (*plaitv1.PutScheduleResponse, error) {
	address, err := c.callees.ask(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := c.dialTo(address)
	if err != nil {
		return nil, err
	}
	defer c.closeConn(conn)
	ctx, cancel := context.WithTimeout(ctx, scheduleAnswer)
	defer cancel()
	request := &plaitv1.PutScheduleRequest{Schedule: schedule, NextTimes: 1}
	return plaitv1.NewScheduleServiceClient(conn).PutSchedule(ctx, request)
}

func (c *Client) closeConn(conn *grpc.ClientConn) {
	if err := conn.Close(); err != nil {
		c.log.Warn("close a connection to the scheduler", "error", err)
	}
}

func durationOrNil(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

func timeOrNil(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
