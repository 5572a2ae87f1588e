package plaittest_test

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"plait.dev/plait"
	plaitv1 "plait.dev/plait/gen/plait/v1"
	testingv1 "plait.dev/plait/gen/testing/v1"
)

func TestSchedule_RunsATaskAtItsTimes(t *testing.T) {
	t.Parallel()
	needMesh(t)
	c := testingv1.NewEchoServiceClient(shared.Connect(t).Channel())
	options := plait.ScheduleOptions{Cron: "30 2 * * *", Timezone: "Asia/Tokyo"}
	entry, err := plait.Schedule(t.Context(), c.Inspect, "of-go", &testingv1.InspectRequest{}, options)
	if err != nil {
		t.Fatal(err)
	}
	next := entry.GetStatus().GetNextTimes()
	if len(next) != 1 || next[0].AsTime().Hour() != 17 || next[0].AsTime().Minute() != 30 {
		t.Fatalf("the next runs are %v", next)
	}
	priority := int32(0)
	// Said anew, it is changed: over before it begins, so that no task is left behind.
	options = plait.ScheduleOptions{
		Every:    time.Second,
		Anchor:   time.Unix(1_000_000, 0),
		Start:    time.Unix(1, 0),
		End:      time.Unix(2, 0),
		Overlap:  plaitv1.OverlapPolicy_OVERLAP_POLICY_ALLOW,
		Missed:   plaitv1.MissedPolicy_MISSED_POLICY_SKIP,
		Jitter:   time.Millisecond,
		CatchUp:  time.Hour,
		Priority: &priority,
	}
	entry, err = plait.Schedule(t.Context(), c.Inspect, "of-go", &testingv1.InspectRequest{}, options)
	if err != nil {
		t.Fatal(err)
	}
	got := entry.GetSchedule()
	if got.GetEvery().AsDuration() != time.Second || got.GetCron() != "" || got.Priority == nil ||
		got.GetAnchor().GetSeconds() != 1_000_000 || got.GetCatchUpWindow().AsDuration() != time.Hour ||
		got.GetStartTime().GetSeconds() != 1 || got.GetEndTime().GetSeconds() != 2 ||
		got.GetOverlap() != options.Overlap || got.GetMissed() != options.Missed ||
		got.GetJitter().AsDuration() != time.Millisecond {
		t.Fatalf("it became %v", got)
	}
	if next := entry.GetStatus().GetNextTimes(); len(next) != 0 {
		t.Fatalf("it is over, and runs at %v", next)
	}
}

func TestSchedule_ThatCannotHoldIsRefused(t *testing.T) {
	t.Parallel()
	needMesh(t)
	c := testingv1.NewEchoServiceClient(shared.Connect(t).Channel())
	_, err := plait.Schedule(t.Context(), c.Inspect, "bad", &testingv1.InspectRequest{},
		plait.ScheduleOptions{Cron: "61 * * * *"})
	wantCode(t, err, codes.InvalidArgument, plaitv1.ErrorReason_ERROR_REASON_INVALID_REQUEST)
}
