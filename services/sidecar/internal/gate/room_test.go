package gate

import (
	"math/rand/v2"
	"testing"
)

// server answers at once calls that it has no room for, and the others in the order they came.
type server struct {
	room          int
	running       []int // Among how many each was taken.
	good, refused int
}

// batch lets calls go through until so many are answered well, as many at once as the room allows.
func (s *server) batch(r *room, good int) {
	for end := s.good + good; s.good < end; {
		var over []int
		for r.free() {
			among := r.take()
			if len(s.running) < s.room {
				s.running = append(s.running, among)
			} else {
				over = append(over, among)
			}
		}
		for _, among := range over {
			r.give(among, true)
			s.refused++
		}
		if len(over) == 0 {
			r.give(s.running[0], false)
			s.running = s.running[1:]
			s.good++
		}
	}
}

func TestRoom_FindsOutHowMuchTheServerHas(t *testing.T) {
	t.Parallel()
	for _, its := range []int{1, 2, 4, 30, 90} {
		r := newRoom(100)
		s := server{room: its}
		s.batch(&r, 10*its)
		if r.limit > its+1 || r.limit < its/2 {
			t.Errorf("room for %d: a bound of %d after %d refusals", its, r.limit, s.refused)
		}
		if s.refused > 500 {
			t.Errorf("room for %d: %d refusals until it was known", its, s.refused)
		}
		s.refused = 0
		s.batch(&r, 10_000)
		if most := 10_000 / (2 * (its + 1)); s.refused > most {
			t.Errorf("room for %d: %d refusals of 10,000 later, more than %d", its, s.refused, most)
		}
	}
}

func TestRoom_FollowsAServerThatHasLessAndMoreAgain(t *testing.T) {
	t.Parallel()
	r := newRoom(100)
	s := server{room: 100}
	s.batch(&r, 1000)
	if r.limit != 100 || s.refused != 0 {
		t.Fatalf("%+v, %d refusals", r, s.refused)
	}
	for _, r100 := range s.running {
		r.give(r100, false)
	}
	s = server{room: 5}
	s.batch(&r, 100)
	if r.limit > 6 || s.refused > 500 {
		t.Fatalf("a bound of %d after %d refusals", r.limit, s.refused)
	}
	s.room = 100
	s.batch(&r, 40_000)
	if r.limit != 100 {
		t.Fatalf("a bound of %d when there is room again", r.limit)
	}
}

func TestRoom_AQuotaOfSomebodyIsNoLackOfRoom(t *testing.T) {
	t.Parallel()
	r := newRoom(256)
	dice := rand.New(rand.NewPCG(1, 2))
	least := r.limit
	var taken []int
	for range 100_000 {
		for len(taken) < 16 && r.free() {
			taken = append(taken, r.take())
		}
		i := dice.IntN(len(taken))
		r.give(taken[i], dice.IntN(10) == 0)
		taken = append(taken[:i], taken[i+1:]...)
		least = min(least, r.limit)
	}
	if least < 8 {
		t.Fatalf("a bound of %d where 16 calls come at once", least)
	}
}

func TestRoom_ACallThatWasAloneSaysNothing(t *testing.T) {
	t.Parallel()
	r := newRoom(10)
	for range 100 {
		if r.give(r.take(), true) {
			t.Fatal("lowered")
		}
	}
	if r.limit != 10 || r.inUse != 0 {
		t.Fatalf("%+v", r)
	}
}

func TestRoom_TellsWhenItIsLessThanWasSet(t *testing.T) {
	t.Parallel()
	r := newRoom(2)
	r.take()
	if r.give(r.take(), true) {
		t.Fatal("what was set is believed at first")
	}
	if lowered := r.give(r.take(), true); !lowered || r.limit != 1 {
		t.Fatalf("%+v", r)
	}
	if r.free() || r.inUse != 1 {
		t.Fatal("more than the bound")
	}
}
